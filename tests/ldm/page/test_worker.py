"""Stage 1's process: asked again and again, started anew if it dies, cancelled, ended."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Event

import pytest

from egogen.errors import UserError
from ldm.page.stage_one_worker import StageOneCancelledError, StageOneWorker
from tests.ldm.page.running_page import STAND_IN

Talk = tuple[StageOneWorker, list[str], list[str], Path]


@pytest.fixture
def talk(tmp_path: Path) -> Iterator[Talk]:
    notes = tmp_path / "notes"
    worker = StageOneWorker([sys.executable, str(STAND_IN), str(notes)])
    yield worker, [], [], notes
    worker.close()


def ask(talk: Talk, action: str, cancelled: Event | None = None, name: str = "a") -> str:
    worker, texts, deaths, _ = talk
    question: dict[str, object] = {"id": name, "action": action, "text": None, "folder": None}
    return worker.ask(question, texts.append, deaths.append, cancelled or Event())


def starts(talk: Talk) -> int:
    return talk[3].read_text().count("started")


def test_it_is_started_once_and_writes_word_by_word(talk: Talk) -> None:
    assert ask(talk, "open it") == "the right hand reaches out and does it: open it"
    assert ask(talk, "close it", name="b").endswith("close it")
    assert talk[1][:3] == ["the", "the right", "the right hand"]
    assert (starts(talk), talk[2]) == (1, [])


def test_a_refusal_is_the_questions_own(talk: Talk) -> None:
    with pytest.raises(UserError, match="action 'refuse this': it is refused"):
        ask(talk, "refuse this")
    assert ask(talk, "open it", name="b")
    assert starts(talk) == 1


def test_a_death_under_a_question_is_told_and_the_next_is_answered(talk: Talk) -> None:
    with pytest.raises(UserError, match=r"stage 1 stopped twice .*code 9.*; try another photo or action"):
        ask(talk, "die")
    assert talk[2][0].startswith("Stage 1 stopped (it ended with code 9); it is started anew")
    assert ask(talk, "open it", name="b")
    assert starts(talk) == 3


def test_a_death_between_questions_is_no_failure(talk: Talk) -> None:
    ask(talk, "open it")
    process = talk[0].process
    assert process is not None
    process.kill()
    process.wait()
    assert ask(talk, "open it", name="b")
    assert talk[2] == ["Stage 1 had stopped; it is started anew, which takes a moment."]


def test_cancelling_ends_the_writing(talk: Talk) -> None:
    cancelled = Event()
    cancelled.set()
    with pytest.raises(StageOneCancelledError):
        ask(talk, "slow", cancelled)
    assert len(talk[1]) < 5
    assert ask(talk, "open it", name="b")


def test_one_that_cannot_be_loaded_is_told() -> None:
    worker = StageOneWorker([sys.executable, "-c", "raise SystemExit(3)"])
    worker.start()
    with pytest.raises(UserError, match="stage 1 could not be loaded: it ended with code 3; what it said is"):
        worker.wait_ready()
    worker.close()


def test_it_ends_with_the_page(talk: Talk) -> None:
    ask(talk, "open it")
    talk[0].close()
    process = talk[0].process
    assert process is not None
    assert process.poll() == 0
    with pytest.raises(UserError, match="the page is closing"):
        talk[0].start()
