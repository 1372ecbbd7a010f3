"""Bars on a terminal; elsewhere log lines: never carriage returns, and nothing with --quiet."""

from __future__ import annotations

import io
import json
import logging
import os
import re
from collections.abc import Callable, Iterator

import pytest

from egogen import logs, progress
from egogen.progress import Progress
from tests.workbench import ROOT


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which the test moves."""
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    return now


def work(clock: list[float], file: io.StringIO, seconds: float, **how: object) -> None:
    for _ in Progress(range(4), desc="draw", unit="frame", file=file, **how):
        clock[0] += seconds


def test_a_file_gets_a_line_every_ten_seconds_and_at_the_end(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    file = io.StringIO()
    work(clock, file, 6)
    assert caplog.messages == [
        "draw: 2/4 (50 %), 0.17 frame/s, 00:12 left",
        "draw: 4/4 (100 %), 0.17 frame/s, in 00:24",
    ]
    assert file.getvalue() == ""
    caplog.clear()
    work(clock, file, 0.1)
    assert caplog.messages == ["draw: 4/4 (100 %), 10.00 frame/s, in 00:00"]
    caplog.clear()
    work(clock, file, 0.1, leave=False)
    assert caplog.messages == []


def test_bytes_are_told_in_units_and_work_goes_on(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with Progress(total=4_000_000, initial=1_000_000, unit="B", unit_scale=True, file=io.StringIO()) as bar:
        clock[0] += 10
        bar.set_postfix(loss=0.5, refresh=False)
        bar.update(1_000_000)
    assert caplog.messages == ["B: 2.00M/4.00M (50 %), 100k B/s, 00:20 left, loss=0.5"]


def test_a_terminal_gets_a_bar(clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    file = Terminal()
    work(clock, file, 1)
    assert "\r" in file.getvalue()
    assert "4/4 [00:04<00:00" in file.getvalue()
    assert caplog.messages == []


def test_quiet_is_quiet(clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    for file in (io.StringIO(), Terminal()):
        work(clock, file, 20)
        assert file.getvalue() == ""
    assert caplog.messages == []


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Begins to log as a process does."""
    root = logging.getLogger()
    level = root.level
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(logging, "_defaultFormatter", logging._defaultFormatter)  # type: ignore[attr-defined]
    monkeypatch.delenv("HF_HUB_DISABLE_PROGRESS_BARS", raising=False)

    def begin(*words: str) -> None:
        root.handlers.clear()  # pytest's
        logs.start(words)

    yield begin
    root.setLevel(level)
    logging.captureWarnings(False)


def test_json_lines(
    clock: list[float], start: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    start("--log-json")
    logging.getLogger("ldm.x").info("drew %s", "ж\n2")
    work(clock, Terminal(), 1)
    library = logging.StreamHandler()  # as libraries make theirs
    library.emit(logging.LogRecord("lib", logging.WARNING, "", 0, "careful", None, None))
    told = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(each["level"], each["logger"], each["message"]) for each in told] == [
        ("info", "ldm.x", "drew ж\n2"),
        ("info", "egogen.progress", "draw: 4/4 (100 %), 1.00 frame/s, in 00:04"),
        ("warning", "lib", "careful"),
    ]
    assert told[1]["progress"] == {"name": "draw", "done": 4, "total": 4, "unit": "frame", "seconds": 4.0}
    assert os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] == "1"


def test_quiet_tells_warnings(start: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    start("--quiet")
    logging.getLogger("ldm").info("a")
    logging.getLogger("ldm").warning("b")
    assert capsys.readouterr().err == "b\n"


def test_a_bar_that_was_interrupted_as_it_was_made_ends_quietly() -> None:
    """As Ctrl-C leaves it in the middle of tqdm's `__init__`: told to be shown, with nothing to show."""
    bar = Progress.__new__(Progress)
    bar.disable, bar.lines = False, True
    bar.close()
    assert bar.disable


def test_all_bars_are_of_this_kind() -> None:
    others = {
        path.relative_to(ROOT).as_posix(): line
        for package in ("egogen", "llava", "ldm")
        for path in ROOT.glob(f"{package}/**/*.py")
        for line in re.findall(r"^ *(?:from|import) (tqdm\S*)", path.read_text(), re.MULTILINE)
    }
    assert others == {
        "egogen/progress.py": "tqdm",
        "egogen/features/store_conversion.py": "tqdm.contrib.concurrent",  # is given this class
    }
