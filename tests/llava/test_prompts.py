import json
from pathlib import Path
from typing import Any

import pytest

from egogen.errors import UserError
from llava.checkpoints.tokenizer import load_tokenizer, save_tokenizer
from llava.question.labels import QUESTION
from llava.question.prompts import (
    IMAGE_TOKEN,
    LLAVA_LLAMA_2,
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


def test_braces_in_an_action_are_text() -> None:
    assert question("How to {}?", "pour {} into {pan}") == "<image>\nHow to pour {} into {pan}?"


def test_an_image_place_becomes_one_place_a_patch() -> None:
    ids = [1, 5, IMAGE_TOKEN, 7]
    assert expand_image(ids, ids, 3, IMAGE_TOKEN) == [1, 5, IMAGE_TOKEN, IMAGE_TOKEN, IMAGE_TOKEN, 7]
    assert expand_image([-100, 5, 6, 7], ids, 2, -100) == [-100, 5, -100, -100, 7]


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
    parts = [{"type": "text", "text": "What is done?"}, {"type": "image"}]
    rendered = loaded[1].apply_chat_template([{"role": "user", "content": parts}], tokenize=False)
    assert rendered == "<s>" + render(["<image>\nWhat is done?", None])


def test_plain_words_need_no_check_where_no_sign_can_be_in_them() -> None:
    longest = longest_plain(QUESTION, ["<extra>"], 500)
    assert len(render([question(QUESTION, "x" * longest), None]).encode()) == 499
    for words, plain in {
        "pick up the cup, no. 3": True, "#C C cuts": True, "": False, " -": False, "a <s>": False,
        "the caf\u00e9": False, "a\nb": False,
    }.items():  # fmt: skip
        assert is_plain(words) is plain
        if plain:
            check_words(words, QUESTION, ["<extra>"], words)
    assert longest_plain("How {} <", [], 500) == -1  # "<s>" may come to be
    assert longest_plain("How?", [], 500) == -1
    for sign in ("PAD", "###", "--", "  ", "..."):
        assert longest_plain(QUESTION, [sign], 500) == -1
