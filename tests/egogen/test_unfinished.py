"""What ended runs left: beside what is made it goes at once, elsewhere when nobody has looked for a day."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from egogen.files import part_of, this_host
from egogen.locks import hold
from egogen.unfinished import MARK, Neighbours, sweep


@pytest.fixture(scope="module")
def ended() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def left(path: Path, process: int, host: str = "") -> Path:
    """What a process left of a file."""
    mine = part_of(path)
    part = mine.with_name(
        mine.name.replace(f"{this_host()}-{os.getpid()}-", f"{host or this_host()}-{process}-")
    )
    part.parent.mkdir(parents=True, exist_ok=True)
    part.touch()
    return part


def test_what_is_beside_a_file_goes_before_it_is_written(tmp_path: Path, ended: int) -> None:
    parts = [left(tmp_path / name, ended) for name in ("a/x.jpg", "a/y.jpg", "a/inner/x.jpg", "b/x.jpg")]
    neighbours = Neighbours()
    neighbours.clean(tmp_path / "none")
    neighbours.clean(tmp_path / "a")
    assert [part.exists() for part in parts] == [False, False, True, True]
    again = left(tmp_path / "a/x.jpg", ended)
    neighbours.clean(tmp_path / "a")
    assert again.exists(), "a folder is looked into once in a row"
    for name in ("b", "a"):
        neighbours.clean(tmp_path / name)
    assert [part.exists() for part in (*parts, again)] == [False, False, True, False, False]


def test_a_tree_is_gone_through_once_a_day(tmp_path: Path, ended: int) -> None:
    notes, deep = tmp_path / "notes", tmp_path / "images" / "clip" / "action" / "x.jpg"
    first, other = left(deep, ended), left(deep, 1, "00000000")
    sweep([tmp_path / "images"], notes)
    assert first.exists(), "nothing was made here"
    notes.mkdir()
    sweep([tmp_path / "images"], notes)
    assert (first.exists(), other.exists()) == (False, True), "another machine's process may be living"
    second = left(deep, ended)
    sweep([tmp_path / "images"], notes)
    assert second.exists(), "somebody has looked today"
    yesterday = time.time() - 86_500
    for path in (other, notes / "swept"):
        os.utime(path, (yesterday, yesterday))
    sweep([tmp_path / "images"], notes)
    assert [part.exists() for part in (first, other, second)] == [False, False, False]
    assert time.time() - (notes / "swept").stat().st_mtime < 60


def test_who_holds_a_tree_may_look_into_its_first_folders_alone(tmp_path: Path, ended: int) -> None:
    names = (".x.json", "drawn/x", ".shards/x.claim", "images/clip/action/x.jpg")
    parts = [left(tmp_path / "out" / name, ended) for name in names]
    with hold(tmp_path / "out", "drawing", deep=False):
        assert [part.exists() for part in parts] == [False, False, False, True]
    with hold(tmp_path / "out", "drawing"):
        assert not parts[-1].exists()


def test_a_time_to_come_is_no_day_of_rest(tmp_path: Path, ended: int) -> None:
    """As after a clock that was set back."""
    sweep([tmp_path / "images"], tmp_path)
    os.utime(tmp_path / MARK, (time.time() + 1e6,) * 2)
    part = left(tmp_path / "images" / "x.jpg", ended)
    sweep([tmp_path / "images"], tmp_path)
    assert not part.exists()
