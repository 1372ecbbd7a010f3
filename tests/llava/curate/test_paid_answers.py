from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from egogen.errors import UserError
from llava.curate.exchange import Reply
from llava.curate.paid_answers import Answers, Line

REPLY = Reply("A hand \u2603\ncuts.", False, False, 10, 5, True)


def test_runs_share_answers_and_no_file(tmp_path: Path) -> None:
    first, second = Answers(tmp_path), Answers(tmp_path)
    first.add([Line("a", REPLY, "m", "cut it")])
    second.add([Line("b", REPLY, "m", "cut it"), Line("c", REPLY, "m", "cut it")])
    assert len(list(tmp_path.glob("*.jsonl"))) == 2
    third = Answers(tmp_path)
    assert [third.get(key) for key in "abcd"] == [REPLY, REPLY, REPLY, None]
    assert first.get("a") == REPLY


@pytest.mark.parametrize("kept", [1, 40, -2])
def test_a_line_that_was_cut_off_is_passed_over(
    tmp_path: Path, kept: int, caplog: pytest.LogCaptureFixture
) -> None:
    answers = Answers(tmp_path)
    answers.add([Line("a", REPLY, "m", "cut it")])
    answers.add([Line("b", REPLY, "m", "cut it")])
    first, second = answers.path.read_bytes().splitlines(keepends=True)
    answers.path.write_bytes(first + second[:kept])
    again = Answers(tmp_path)
    assert (again.get("a"), again.get("b")) == (REPLY, None)
    assert "passed over 1 unfinished or damaged lines" in caplog.text
    again.add([Line("b", REPLY, "m", "cut it")])
    assert Answers(tmp_path).get("b") == REPLY


def test_a_whole_last_line_without_its_end_counts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    answers = Answers(tmp_path)
    answers.add([Line("a", REPLY, "m", "cut it")])
    answers.path.write_bytes(answers.path.read_bytes().rstrip())
    assert Answers(tmp_path).get("a") == REPLY
    assert caplog.text == ""


def test_a_line_says_who_was_asked_about_what(tmp_path: Path) -> None:
    answers = Answers(tmp_path)
    answers.add([Line("a", REPLY, "m", "cut it")])
    entry = json.loads(answers.path.read_text())
    assert (entry["model"], entry["action"], entry["reply"]["text"]) == ("m", "cut it", REPLY.text)


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file.*cannot be written"):
        Answers(tmp_path / "file").add([])
