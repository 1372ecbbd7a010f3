"""Files that need no second look: witness is what was done to each of them."""

from __future__ import annotations

import os
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


def test_the_last_line_of_a_name_counts(root: Path) -> None:
    noted(root)
    (root / NAMES[3]).write_text("anew")
    noted(root)
    assert opened(root).unchanged(NAMES)[1].all()


@pytest.mark.parametrize("damage", [b'["c/00', b"[1, 2, 3]\n", b"\xff\n{}\n\n[[]]\n", b'["c/000.jpg", 1]\n'])
def test_a_damaged_line_costs_a_look_at_its_file_and_no_more(
    root: Path, damage: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = noted(root)
    monkeypatch.setattr(seen_files, "BLOCK", 100)
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
