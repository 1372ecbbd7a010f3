"""Files that need no second look: witness is what was done to each of them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from egogen import seen_files
from egogen.seen_files import SeenFiles

NAMES = [f"c/{number:03d}.jpg" for number in range(200)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "images" / "c").mkdir(parents=True)
    for name in NAMES:
        (tmp_path / "images" / name).write_text(name)
    return tmp_path / "images"


def opened(root: Path, part: str = "") -> SeenFiles:
    return SeenFiles(root.parent / "journals", root, part)


def noted(root: Path) -> Path:
    first = opened(root)
    for name in NAMES:
        first.note(name)
    first.flush()
    return first.journal


def test_files_that_are_as_they_were_need_no_look(root: Path) -> None:
    there, known = opened(root).unchanged(NAMES)
    assert there.all()
    assert not known.any()
    noted(root)
    there, known = opened(root).unchanged([*NAMES, "c/none.jpg"])
    assert there.tolist() == known.tolist() == [True] * len(NAMES) + [False]


def test_what_has_changed_since_is_looked_at(root: Path) -> None:
    noted(root)
    (root / NAMES[0]).unlink()
    (root / NAMES[1]).write_text("longer than it was")
    os.utime(root / NAMES[2], ns=(0, 5))
    there, known = opened(root).unchanged(NAMES)
    assert (~there).nonzero()[0].tolist() == [0]
    assert (~known).nonzero()[0].tolist() == [0, 1, 2]
    again = opened(root, "other")
    again.note(NAMES[1])
    again.flush()
    assert again.journal.name == "other.jsonl"
    assert (~opened(root).unchanged(NAMES)[1]).nonzero()[0].tolist() == [0, 2]


def test_lines_of_one_name_may_lie_in_several_journals(root: Path) -> None:
    """As of shards whose folder was copied with new times, and read once since."""
    shard = opened(root, "shard_1_of_2")
    for name in NAMES:
        shard.note(name)
    shard.flush()
    (root / NAMES[3]).write_text("anew")
    os.utime(root / NAMES[4], ns=(0, 5))
    noted(root)
    assert opened(root).journal.name < shard.journal.name
    assert opened(root).unchanged(NAMES)[1].all()


def test_a_journal_is_read_again_only_when_it_has_grown(root: Path) -> None:
    noted(root)
    opened(root)
    before = seen_files.read.cache_info().misses
    assert opened(root).unchanged(NAMES)[1].all()
    assert seen_files.read.cache_info().misses == before
    (root / NAMES[0]).write_text("longer than it was")
    assert not opened(root).unchanged(NAMES[:1])[1].any()
    noted(root)
    assert opened(root).unchanged(NAMES)[1].all()


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("gone")])
def test_what_is_no_journal_is_passed_over(
    root: Path, make: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    make(noted(root).with_name("other.jsonl"))
    assert opened(root).unchanged(NAMES)[1].all()
    assert "other.jsonl: not read (" in caplog.text


@pytest.mark.parametrize("damage", [b'["c/00', b"[1, 2, 3]\n", b"\xff\n{}\n\n[[]]\n", b'["c/000.jpg", 1]\n'])
def test_a_damaged_line_costs_a_look_at_its_file_and_no_more(root: Path, damage: bytes) -> None:
    journal = noted(root)
    whole = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(whole[:-1]) + damage)
    found = opened(root)
    assert (~found.unchanged(NAMES)[1]).nonzero()[0].tolist() == [len(NAMES) - 1]
    found.note(NAMES[-1])
    found.flush()
    assert opened(root).unchanged(NAMES)[1].all()


def test_a_disk_that_takes_no_journal_is_told_of(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    (root.parent / "journals").write_text("a file in its place")
    found = opened(root)
    found.note(NAMES[0])
    found.flush()
    assert "the next start reads these files" in caplog.text
