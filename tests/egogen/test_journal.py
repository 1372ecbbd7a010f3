"""A journal's rows outlive its writer: witness is the file's own bytes, cut or damaged by hand."""

from __future__ import annotations

import errno
import io
import json
import os
from pathlib import Path

import pytest

from egogen.errors import UserError
from egogen.journal import Journal, Key, Row

ROWS = [{"clip": "a", "id": "0", "text": "\u2603"}, {"clip": "a", "id": "1", "text": "b"}]


def journal(path: Path, *, tolerant: bool = False) -> Journal:
    return Journal(path, ("clip", "id"), anew="its action is done anew", tolerant=tolerant)


def test_rows_come_back_by_their_key_and_the_last_counts(tmp_path: Path) -> None:
    path = tmp_path / "new/j.jsonl"
    first = journal(path)
    first.add(ROWS[:1])
    first.add([ROWS[1], {**ROWS[0], "text": "later"}])
    expected = {("a", "0"): {**ROWS[0], "text": "later"}, ("a", "1"): ROWS[1]}
    assert first.rows == journal(path).rows == expected
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("kept", [1, 20, -2])
def test_a_cut_tail_is_passed_over_by_readers_and_removed_by_the_writer(
    tmp_path: Path, kept: int, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "j.jsonl"
    journal(path).add(ROWS)
    first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + second[:kept])
    found = journal(path)
    assert list(found.rows) == [("a", "0")]
    assert caplog.messages == [f"{path}: dropped an unfinished last line"]
    assert path.read_bytes() == first + second[:kept], "another process may be writing it"
    found.add(ROWS[1:])
    assert path.read_bytes() == first + second
    path.write_bytes(first + second + second[:kept])
    journal(path).add(ROWS[:1])
    assert path.read_bytes() == first + second + first


def test_of_a_first_line_that_was_never_finished_nothing_stays(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    path.write_bytes(b"{")
    journal(path).add(ROWS[:1])
    assert [*map(json.loads, path.read_bytes().splitlines())] == ROWS[:1]


def test_rows_are_told_where_they_begin(tmp_path: Path) -> None:
    """For journals that keep places in the file in memory; witness: the bytes there."""

    class Places(Journal):
        def keep(self, key: Key, row: Row, place: int) -> None:
            self.rows[key] = {**row, "place": place}

    def check(found: Journal) -> None:
        content = (tmp_path / "j.jsonl").read_bytes()
        for key, row in found.rows.items():
            line = content[row["place"] :].splitlines()[0]
            assert found.key_of(json.loads(line)) == key

    rows = [{"id": f"{number}", "text": "x" * number} for number in range(7)]
    first = Places(tmp_path / "j.jsonl", ["id"], anew="")
    first.add(rows[:3])
    check(first)
    first.add(rows[3:5])
    check(first)
    second = Places(tmp_path / "j.jsonl", ["id"], anew="")
    second.add(rows[5:])
    check(second)
    assert len(second.rows) == 7


def test_a_journal_is_not_read_again_for_a_row_more(tmp_path: Path) -> None:
    """Of millions of rows the last byte tells whether the last one is whole."""
    read: list[int] = []

    class Watched(io.BytesIO):
        name, mode = "j.jsonl", "ab+"

        def read(self, size: int | None = -1) -> bytes:
            found = super().read(size)
            read.append(len(found))
            return found

    whole = Watched(b'{"clip": "a", "id": "0"}\n' * 9)
    journal(tmp_path / "j.jsonl").mend_tail(whole)
    assert read == [1]
    assert whole.getvalue() == b'{"clip": "a", "id": "0"}\n' * 9


def test_a_whole_last_line_without_its_end_counts_and_gets_it(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    journal(path).add(ROWS[:1])
    path.write_bytes(path.read_bytes().rstrip())
    found = journal(path)
    assert list(found.rows) == [("a", "0")]
    found.add(ROWS[1:])
    assert journal(path).rows == {("a", "0"): ROWS[0], ("a", "1"): ROWS[1]}


@pytest.mark.parametrize(
    "line",
    [
        b"{broken}",
        b"[1]",
        b"1",
        b'"a"',
        b"",
        b'{"clip": "a"}',
        b'{"clip": "a", "id": []}',
        b'{"clip": "\xff"}',
    ],
)
def test_a_damaged_line_is_named_with_its_number(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "j.jsonl"
    journal(path).add(ROWS[:1])
    path.write_bytes(path.read_bytes() + line + b"\n" + path.read_bytes())
    with pytest.raises(
        UserError, match=r"j\.jsonl: line 2 is damaged; delete the line, and its action is done"
    ):
        journal(path)
    assert (journal(path, tolerant=True).damaged, len(journal(path, tolerant=True).rows)) == (1, 1)
    path.write_bytes(line + b"\n" + path.read_bytes())
    assert journal(path, tolerant=True).damaged == 2


def test_damage_is_an_error_unless_it_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    path.write_bytes(b"{broken}\n")
    with pytest.raises(UserError, match="line 1 is damaged"):
        Journal(path, ("clip", "id"), anew="its action is done anew")


def test_rows_are_on_disk_before_they_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "j.jsonl"
    synced: list[int] = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (synced.append(os.fstat(handle).st_size), real(handle)))
    for number in (1, 2):
        journal(path).add(ROWS[:1])
        assert path.stat().st_size in synced[number - 1 :]


def test_places_that_cannot_be_read_or_written_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/j\.jsonl: cannot be written"):
        journal(tmp_path / "file/j.jsonl").add(ROWS)
    with pytest.raises(UserError, match="is a folder; expected a file"):
        journal(tmp_path)
    with pytest.raises(UserError, match=r"xxx: cannot be read \(File name too long\)"):
        journal(tmp_path / ("x" * 300))


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (errno.ENOSPC, r"j\.jsonl: not written \(No space left on device\)"),
        (errno.EIO, r"j\.jsonl: cannot be written \(Input/output error\)"),
    ],
)
def test_what_a_disk_refuses_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, told: str
) -> None:
    path = tmp_path / "j.jsonl"
    found = journal(path)
    found.add(ROWS[:1])
    before = path.read_bytes()

    def refuse(_: int) -> None:
        raise OSError(number, os.strerror(number), f"{path}")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(UserError, match=told):
        found.add(ROWS[1:])
    assert list(found.rows) == [("a", "0")], "what is not on disk does not count"
    assert path.read_bytes().startswith(before)
