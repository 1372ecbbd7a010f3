import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from jinja2 import TemplateError

from egogen.errors import UserError
from llava.checkpoints.tokenizer import EOS, load_tokenizer, save_tokenizer
from llava.question.labels import QUESTION
from llava.question.prompts import (
    IMAGE_TOKEN,
    LLAVA_LLAMA_2,
    answer_ids,
    chat_template,
    check_length,
    check_words,
    expand_image,
    is_plain,
    longest_plain,
    prompt_ids,
    question,
    render,
    tokenize,
)
from tests.llava.conftest import ORACLE, Loaded

CASES = json.loads((ORACLE / "prompts.json").read_text())


@pytest.mark.parametrize("case", CASES["single"])
def test_prompt_text_and_ids_are_those_of_the_published_code(case: dict[str, Any], loaded: Loaded) -> None:
    tokenizer = loaded[1]
    text = case["query"].format(case["action"])
    assert render([f"<image>\n{text}", None]) == case["prompt"]
    if "<image>" in case["query"]:  # a piece that begins with a space: transformers 5 tokenises it otherwise
        with pytest.raises(UserError, match="<image>"):
            question(case["query"], case["action"])
        return
    assert tokenize(case["prompt"], tokenizer) == case["input_ids"]
    if case["query"].count("{}") == 1:
        assert prompt_ids(case["query"], case["action"], tokenizer) == case["input_ids"]


@pytest.mark.parametrize("case", CASES["multi_turn"])
def test_several_turns_are_those_of_the_published_code(case: dict[str, Any], loaded: Loaded) -> None:
    text = render([message for _, message in case["messages"]])
    assert text == case["prompt"]
    assert tokenize(text, loaded[1]) == case["input_ids"]


@pytest.mark.parametrize("query", ["Describe the frame.", "{} and {}"])
def test_a_query_that_has_not_one_slot_is_refused(query: str) -> None:
    with pytest.raises(UserError, match="expected it once"):
        question(query, "cut the apple")


def test_an_action_has_no_place_for_a_frame() -> None:
    told = r"^action 'cut <image>': <image> stands for the frame; take it out of the label$"
    with pytest.raises(UserError, match=told):
        question("How to {}?", "cut <image>")


def test_braces_in_an_action_are_text() -> None:
    assert question("How to {}?", "pour {} into {pan}") == "<image>\nHow to pour {} into {pan}?"


def test_an_image_place_becomes_one_place_a_patch() -> None:
    ids = [1, 5, IMAGE_TOKEN, 7]
    assert expand_image(ids, ids, 3, IMAGE_TOKEN) == [1, 5, IMAGE_TOKEN, IMAGE_TOKEN, IMAGE_TOKEN, 7]
    assert expand_image([-100, 5, 6, 7], ids, 2, -100) == [-100, 5, -100, -100, 7]
    with pytest.raises(ValueError, match="argument 2 is longer"):
        expand_image([-100, 5, 6], ids, 2, -100)


def test_empty_messages_leave_nothing() -> None:
    assert render(["", None]) == ""
    assert render(["a", "", "b", "c"]).endswith("a [/INST]<s>[INST] b [/INST] c </s>")
    assert LLAVA_LLAMA_2.system.startswith("You are a helpful")


# A chat template knows no empty turns.
WHOLE = [case for case in CASES["multi_turn"] if all(text for _, text in case["messages"][:-1])]


@pytest.mark.parametrize("case", WHOLE)
def test_the_saved_chat_template_says_the_same(case: dict[str, Any], loaded: Loaded, tmp_path: Path) -> None:
    turns = [message for _, message in case["messages"]]
    messages = [
        {"role": "assistant" if place % 2 else "user", "content": turn}
        for place, turn in enumerate(turns)
        if turn
    ]
    save_tokenizer(loaded[1], tmp_path)
    rendered = load_tokenizer(tmp_path).apply_chat_template(messages, tokenize=False)
    assert rendered == f"<s>{case['prompt']}"


def test_the_chat_template_takes_image_parts(loaded: Loaded) -> None:
    """Witness: the text that a question becomes here; parts of other kinds are left out."""
    words = [{"type": "text", "text": "What is "}, {"type": "text", "text": "done?"}]
    for parts, asked in (
        ([*words, {"type": "image"}], "<image>\nWhat is done?"),
        ([*words, {"type": "audio", "text": "x"}], "What is done?"),
        ("What is done?", "What is done?"),
    ):
        messages = [{"role": "user", "content": parts}, {"role": "assistant", "content": words}]
        rendered = loaded[1].apply_chat_template(messages, tokenize=False, chat_template=chat_template())
        assert rendered == "<s>" + render([asked, "What is done?"])


def test_the_chat_template_knows_two_roles(loaded: Loaded) -> None:
    messages = [{"role": "system", "content": "Be brief."}]
    with pytest.raises(TemplateError, match=r"^roles are user and assistant$"):
        loaded[1].apply_chat_template(messages, tokenize=False, chat_template=chat_template())


def test_plain_words_need_no_check_where_no_sign_can_be_in_them() -> None:
    longest = longest_plain(QUESTION, ["<extra>"], 500)
    assert len(render([question(QUESTION, "x" * longest), None]).encode()) == 499
    for words, plain in {
        "pick up the cup, no. 3": True, "#C C cuts": True, "": False, " -": False, "a <s>": False,
        "the caf\u00e9": False, "a\nb": False, "CUT": True, "cut": True, "7": True,
    }.items():  # fmt: skip
        assert is_plain(words) is plain
        if plain:
            check_words(words, QUESTION, ["<extra>"], words)
    assert longest_plain("How {} <", [], 500) == -1  # "<s>" may come to be
    assert longest_plain("How?", [], 500) == -1
    assert longest_plain("{}", [], 500) == -1  # the words are all of the question
    for sign in ("PAD", "###", "--", "  ", "..."):
        assert longest_plain(QUESTION, [sign], 500) == -1


@pytest.mark.parametrize(
    ("words", "query", "label", "told"),
    [
        ("cut", QUESTION, "<tool> cut", "label '<tool> cut'"),
        ("<tool> cut", QUESTION, "cut", "action '<tool> cut'"),
        ("cut", "<tool> {}?", None, "query '<tool> {}?'"),
        ("too", "<{}l>?", None, r"question '\n<tool>?'"),
        ("<tool>" + "x" * 99, QUESTION, None, f"action '<tool>{'x' * 74}'"),
    ],
)
def test_the_text_that_holds_a_sign_is_named(words: str, query: str, label: str | None, told: str) -> None:
    """The sign is the tokenizer's; of a long text its first 80 letters are shown."""
    with pytest.raises(UserError) as refused:
        check_words(words, query, ["<tool>"], label)
    assert str(refused.value) == f"{told}: it holds <tool>, which the model reads as a sign of its own"


def test_an_answer_follows_the_question_and_ends(loaded: Loaded) -> None:
    """Witness: a whole conversation, as training tokenises it."""
    tokenizer, text = loaded[1], "The left hand cuts the apple."
    whole = tokenize(render([question("How to {}?", "cut"), text]), tokenizer)
    found = answer_ids("How to {}?", "cut", text, tokenizer)
    assert prompt_ids("How to {}?", "cut", tokenizer) + found == whole
    assert found[-1] == EOS
    assert tokenizer.decode(found) == f"{text} </s>"


def test_an_answer_that_melts_into_the_question_is_refused(loaded: Loaded) -> None:
    """Of a tokenizer with a token that reaches from the template into the answer."""
    tokenizer = deepcopy(loaded[1])
    tokenizer.add_tokens(["] Stop"])
    with pytest.raises(UserError) as refused:
        answer_ids(QUESTION, "cut", "Stop" + "x" * 99, tokenizer)
    assert str(refused.value) == (
        f"text 'Stop{'x' * 76}': its beginning cannot be told from the question; begin with a word"
    )


def test_a_question_may_fill_all_places_and_no_more(loaded: Loaded) -> None:
    count = len(prompt_ids("How to {}?", "cut", loaded[1]))
    check_length("cut", "How to {}?", loaded[1], count)
    told = f"the question has {count} tokens, the model has places for {count - 1} beside the image"
    with pytest.raises(UserError, match=told):
        check_length("cut", "How to {}?", loaded[1], count - 1)
