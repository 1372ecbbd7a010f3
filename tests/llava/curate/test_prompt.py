from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from egogen.errors import UserError
from llava.curate.answer_checks import Bounds
from llava.curate.exchange import key_of
from llava.curate.prompt import OURS, read_prompt


def edited(folder: Path, **changes: Any) -> Path:
    """Our prompt with changes; None takes a key away."""
    raw = yaml.safe_load(OURS.read_text()) | changes
    path = folder / "prompt.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in raw.items() if value is not None}))
    return path


def test_our_prompt_is_a_chat_with_examples() -> None:
    prompt = read_prompt(None)
    chat = prompt.first("Action: cut {it}", None)
    assert [message.role for message in chat] == ["system", *["user", "assistant"] * 6, "user"]
    assert chat[-1].text == "Action: cut {it}"
    assert "15 to 70 words" in chat[0].text
    assert prompt.bounds == Bounds(15, 70)
    assert chat[1].text.startswith("Action: cut the carrot\nBoxes before the action")
    assert "no hands; too long" in prompt.mend(["no hands", "too long"]).text


def test_an_image_comes_with_a_word_on_it() -> None:
    chat = read_prompt(None).first("Action: cut it", Path("a.jpg"))
    assert chat[-1].image == Path("a.jpg")
    assert "picture" in chat[-1].text
    assert all(message.image is None for message in chat[:-1])


def test_another_prompt_is_another_key(tmp_path: Path) -> None:
    ours, other = read_prompt(None), read_prompt(edited(tmp_path, version="mine-2"))
    keys = {
        key_of(prompt.first("Action: x", None), {"prompt": prompt.version, "model": model})
        for prompt in (ours, other)
        for model in ("a", "b")
    }
    assert len(keys) == 4


def test_bounds_of_a_prompt_reach_its_texts(tmp_path: Path) -> None:
    prompt = read_prompt(edited(tmp_path, max_words=90))
    assert "15 to 90 words" in prompt.first("Action: x", None)[0].text


EXAMPLE = {"action": "cut it", "description": "The left hand is cut."}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": 1}, "unknown key 'temperature'; allowed are version, min_words"),
        ({"system": None}, "the field 'system' is missing"),
        ({"version": 2}, "field 'version': found 2"),
        ({"ask": "Describe it."}, "field 'ask': lacks {facts}"),
        ({"again": "Again, please."}, "field 'again': lacks {faults}"),
        (
            {"system": "About {action}"},
            "field 'system': unknown slot {action}; allowed are {max_words}, {min_",
        ),
        ({"min_words": 0}, "field 'min_words': found 0"),
        ({"min_words": 80}, "min_words is 80, max_words 70"),
        (
            {"examples": [EXAMPLE]},
            "example 1 .'cut it'.: its description fails .* number of words is 5 .15 to 70",
        ),
        ({"examples": [{**EXAMPLE, "boxes": {}}]}, "field 'examples.0.boxes': .*not permitted"),
        (
            {"examples": [{**EXAMPLE, "before": {"hand": [0, 0, 1]}}]},
            "examples.0.before.hand.*at least 4 items",
        ),
        ({"examples": [{**EXAMPLE, "before": {"hand": [0, 0, 1, 7]}}]}, "examples.0.before.hand.3.*found 7"),
    ],
)
def test_what_is_wrong_with_a_prompt_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = edited(tmp_path, **changes)
    with pytest.raises(UserError, match=message) as error:
        read_prompt(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [", "not valid YAML"),
        (b"- a", "found list"),
        (b"", "found NoneType"),
        (b"\xff", "not UTF-8 text"),
    ],
)
def test_what_is_no_prompt_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "prompt.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_prompt(path)
    with pytest.raises(UserError, match="no such file"):
        read_prompt(tmp_path / "none.yaml")
    with pytest.raises(UserError, match="is a folder; expected a file"):
        read_prompt(tmp_path)
