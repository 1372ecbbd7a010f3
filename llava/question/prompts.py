"""What the VLLM reads: the template of a conversation, the question, and their tokens.

Spec: stage1-vllm-protocol, section 2. The text is cut at `<image>`; every piece is tokenised alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from egogen.errors import UserError
from egogen.reserved import IMAGE_TAG, OF_LLAVA, text_fault
from llava.question.labels import QUESTION, SLOT, check_query

IMAGE_TOKEN = -200  # marks an image's places among token ids; never a row of the vocabulary
PLAIN = re.compile(r"[A-Za-z0-9 .,?'#-]*")
IGNORED = -100  # label of a token that is not learnt


@dataclass(frozen=True)
class Template:
    """How turns become one text."""

    system: str  # what the model is told about its role, inside the first question
    system_wrap: tuple[str, str]  # around the system text
    ask: tuple[str, str]  # around a question
    answer: tuple[str, str]  # around an answer
    begin: str  # precedes every question; the tokeniser adds the first one itself
    end: str  # closes an answer


LLAVA_LLAMA_2 = Template(
    system=(
        "You are a helpful language and vision assistant. "
        "You are able to understand the visual content that the user provides, "
        "and assist the user with a variety of tasks using natural language."
    ),
    system_wrap=("<<SYS>>\n", "\n<</SYS>>\n\n"),
    ask=("[INST] ", " [/INST]"),
    answer=(" ", " "),
    begin="<s>",
    end="</s>",
)


def render(messages: Sequence[str | None], template: Template = LLAVA_LLAMA_2) -> str:
    """Writes a conversation as one text; messages 0, 2, ... are questions.

    An empty message or None (the answer to come) leaves nothing.
    """
    text = ""
    for turn, message in enumerate(messages):
        if not message:
            continue
        if turn % 2:
            text += message.join(template.answer) + template.end
            continue
        system = template.system.join(template.system_wrap) if turn == 0 else ""
        text += template.begin + (system + message).join(template.ask)
    return text.removeprefix(template.begin)


def chat_template(template: Template = LLAVA_LLAMA_2) -> str:
    """The template in Jinja, as `tokenizer.apply_chat_template` takes it; the text begins with BOS.

    A message's content is a text, or a list of `{"type": "image"}` and `{"type": "text", "text": ...}`.
    """
    # Jinja drops one line end after a tag: texts go in as string literals.
    system = json.dumps(template.system.join(template.system_wrap))
    tag = json.dumps(f"{IMAGE_TAG}\n")
    ask, asked = json.dumps(template.begin + template.ask[0]), json.dumps(template.ask[1])
    answer, answered = json.dumps(template.answer[0]), json.dumps(template.answer[1] + template.end)
    return (
        "{%- for message in messages -%}"
        "{%- set content = message.content -%}"
        "{%- if content is not string -%}"
        "{%- set words = content | selectattr('type', 'equalto', 'text') | map(attribute='text') | join -%}"
        "{%- set images = content | selectattr('type', 'equalto', 'image') | list -%}"
        f"{{%- set content = ({tag} if images else '') + words -%}}"
        "{%- endif -%}"
        "{%- if message.role == 'user' -%}"
        f"{{{{- {ask} + ({system} if loop.first else '') + content + {asked} -}}}}"
        "{%- elif message.role == 'assistant' -%}"
        f"{{{{- {answer} + content + {answered} -}}}}"
        "{%- else -%}"
        "{{- raise_exception('roles are user and assistant') -}}"
        "{%- endif -%}"
        "{%- endfor -%}"
    )


def question(query: str, action: str) -> str:
    """The question about one action, with its image tag.

    The query has one `{}` for the words of an action's label (`llava.question.labels`).

    Raises:
        UserError: see `check_query`; or the action has a tag.
    """
    check_query(query)
    if IMAGE_TAG in action:
        raise UserError(f"action {action!r}: {IMAGE_TAG} stands for the frame; take it out of the label")
    return f"{IMAGE_TAG}\n{query.replace(SLOT, action)}"


def check_words(
    action: str, query: str = QUESTION, signs: Sequence[str] = (), label: str | None = None
) -> None:
    """Checks that a question can be asked: no text of it is blank or holds signs of the model.

    Args:
        action: the words of a label.
        query: the question, with `{}` for them.
        signs: of the tokenizer (`own_signs`).
        label: what the words were made of.

    Raises:
        UserError: they do; names the text.
    """
    asked = question(query, action).removeprefix(IMAGE_TAG)
    for name, text, fault in (
        ("label", label, label and text_fault(label, signs)),
        ("action", action, text_fault(action, signs)),
        ("query", query, text_fault(query, signs)),
        ("question", asked, text_fault(asked, signs)),
    ):
        if fault:
            raise UserError(f"{name} {f'{text}'[:80]!r}: {fault}")


def own_signs(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The signs of a tokenizer: its special tokens, and added ones that are no words."""
    added = [sign for sign in tokenizer.get_added_vocab() if not sign.strip().isalnum()]
    return [*map(str, tokenizer.all_special_tokens), *added]


def tokenize(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Token ids of a text with `IMAGE_TOKEN` for each image tag; one BOS at the start."""
    # Not verbose: who asks says itself what is too long.
    first, *rest = [tokenizer(piece, verbose=False).input_ids for piece in text.split(IMAGE_TAG)]
    ids = list(first)
    for piece in rest:
        ids += [IMAGE_TOKEN, *piece[1:]]
    return ids


def prompt_ids(query: str, action: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Token ids that ask about one action and leave the answer to the model."""
    return tokenize(render([question(query, action), None]), tokenizer)


def answer_ids(query: str, action: str, text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Token ids of an answer as training has them: its words, the lone space before `</s>`, and `</s>`.

    Raises:
        UserError: the text's first letters and the question's end make one token, so that neither is whole.
    """
    asked = prompt_ids(query, action, tokenizer)
    whole = tokenize(render([question(query, action), text]), tokenizer)
    if whole[: len(asked)] != asked:
        raise UserError(
            f"text {text[:80]!r}: its beginning cannot be told from the question; begin with a word"
        )
    return whole[len(asked) :]


def is_plain(text: str) -> bool:
    """Whether a text is made of letters and digits of English and a few signs, as nearly all labels are."""
    return PLAIN.fullmatch(text) is not None and re.search("[A-Za-z0-9]", text) is not None


def longest_plain(query: str, signs: Sequence[str], most: int) -> int:
    """How long plain words may be that need no check but this; -1 where all need one.

    No sign of the model is in a text, or comes to be where words and question meet, if each sign has a
    letter that plain texts have not, and the question is plain.

    Args:
        query: the question, with `{}` for the words.
        signs: of the tokenizer (`own_signs`).
        most: tokens of a question, as `check_length` takes it.
    """
    held = (*OF_LLAVA, *signs)
    if query.count(SLOT) != 1 or not is_plain(query.replace(SLOT, "")) or any(map(PLAIN.fullmatch, held)):
        return -1
    return most - 1 - len(render([question(query, ""), None]).encode())


def check_length(action: str, query: str, tokenizer: PreTrainedTokenizerBase, most: int) -> None:
    """Checks that a question has no more than so many tokens, its image counted as one.

    Raises:
        UserError: it has.
    """
    # A token is a byte of the text at least: most questions need not be tokenised for this.
    if len(render([question(query, action), None]).encode()) < most:
        return
    if (count := len(prompt_ids(query, action, tokenizer))) > most:
        raise UserError(f"the question has {count} tokens, the model has places for {most} beside the image")


def expand_image(values: Sequence[int], ids: Sequence[int], patches: int, fill: int) -> list[int]:
    """Repeats each image place of `ids` once a patch, as `fill`; `values` are the ids or their labels."""
    spread: list[int] = []
    for value, token in zip(values, ids, strict=True):
        spread += [fill] * patches if token == IMAGE_TOKEN else [value]
    return spread
