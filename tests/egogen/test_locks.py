"""Locks between real processes: who is refused, what it is told, what a killed process leaves."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import re
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from egogen import locks
from egogen.errors import UserError
from egogen.files import part_of
from egogen.locks import hold
from tests.second_process import second_process


def test_a_second_process_is_refused_and_told_who_is_first(tmp_path: Path) -> None:
    path = tmp_path / "results"
    with second_process(path) as first, pytest.raises(UserError) as refused, hold(path, "measuring"):
        pytest.fail("two processes hold one lock")
    told = str(refused.value)
    words = f"{path}: measuring is under way in process {first.pid} on {socket.gethostname()} since 20"
    assert told.startswith(words)
    assert "(python" in told
    assert "let it end" in told
    assert "\n" not in " ".join(told.split())
    with hold(path, "measuring"):  # the first has ended
        assert (tmp_path / ".results.lock").exists()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["{tmp}/file/x", "{tmp}/file/x/y", f"{{tmp}}/{'x' * 300}", "/proc/x"])
def test_a_place_that_cannot_be_is_no_other_process(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    path = Path(name.format(tmp=tmp_path))
    with pytest.raises(UserError, match=rf"^{path}: cannot be written \("), hold(path, "measuring"):
        pytest.fail("it is held")


def test_what_a_killed_process_leaves_hinders_nobody(tmp_path: Path) -> None:
    with second_process(tmp_path / "results") as first:
        first.kill()
        first.wait()
        assert str(first.pid) in (tmp_path / ".results.lock").read_text()
        with hold(tmp_path / "results", "measuring"):
            assert str(first.pid) not in (tmp_path / ".results.lock").read_text()
    assert not list(tmp_path.iterdir())


def test_what_ended_runs_left_unfinished_goes_when_the_lock_is_held(tmp_path: Path) -> None:
    """In a folder at any depth; of a file its own parts alone. A living process keeps its parts."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    mine = part_of(tmp_path / "results" / "clip" / "x.jpg")
    mine.parent.mkdir(parents=True)
    left = mine.with_name(mine.name.replace(f"-{os.getpid()}-", f"-{ended.pid}-"))
    of_file = tmp_path / left.name.replace(".x.jpg.", ".sd.ckpt.")
    for path in (mine, left, of_file):
        path.touch()
    with hold(tmp_path / "results", "drawing"):
        assert [path.exists() for path in (mine, left, of_file)] == [True, False, True]
    other = tmp_path / left.name
    other.touch()
    with hold(tmp_path / "sd.ckpt", "building"):
        assert [path.exists() for path in (mine, of_file, other)] == [True, False, True]


def test_shares_go_on_side_by_side_and_each_share_once(tmp_path: Path) -> None:
    with second_process(tmp_path / "results", "shard_1_of_2"):
        with hold(tmp_path / "results", "drawing", "shard_2_of_2"):
            pass
        with pytest.raises(UserError, match=r"drawing \(shard_1_of_2\) is under way"):  # noqa: SIM117
            with hold(tmp_path / "results", "drawing", "shard_1_of_2"):
                pytest.fail("two processes hold one share")


def test_one_folder_by_two_names_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "results")
    monkeypatch.chdir(tmp_path / "results")
    with second_process(tmp_path / "results"):
        for name in (Path(), tmp_path / "link"):
            with pytest.raises(UserError, match="under way"), hold(name, "measuring"):
                pytest.fail("two processes hold one lock")


def test_who_waits_goes_on_when_the_first_has_ended(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with second_process(tmp_path / "results") as first:
        end = threading.Timer(1.0, first.kill)
        end.start()
        with hold(tmp_path / "results", "building", wait=True):
            assert first.wait(timeout=10) != 0
    assert re.search(rf"building is under way in process {first.pid} .*; waiting for it", caplog.text)


def test_without_locks_a_warning_once_and_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def none(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    locks.unlocked.cache_clear()
    done = []
    for name in ("one", "two"):
        with hold(tmp_path / name, "measuring"):
            done.append(name)
    assert done == ["one", "two"]
    assert caplog.text.count("no lock (No locks available)") == 1
