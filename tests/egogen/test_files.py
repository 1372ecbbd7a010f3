"""Files are whole or absent; JSON faults are named."""

import math
import os
import shutil
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from egogen.errors import UserError, reason
from egogen.features import read_image_feature
from egogen.features.feature_shards import open_shard
from egogen.file_sets import atomic_files
from egogen.files import (
    atomic_folder,
    atomic_open,
    clean_parts,
    parse_yaml,
    part_of,
    read_json,
    read_yaml,
    this_host,
    write_json,
)
from egogen.frames import TarFrames, read_frame
from egogen.journal import Journal
from egogen.manifest import file_hash
from egogen.prepare.ego4d.ego4d_file import raw_videos
from egogen.prepare.epic.epic_file import read_actions
from egogen.prepare.formats.image_table import read_rows


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a/b.bin"

    def interrupted() -> None:
        with atomic_open(path) as file:
            file.write(b"new")
            raise KeyboardInterrupt

    with atomic_open(path) as file:
        file.write(b"old")
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]


def test_nothing_is_seen_before_the_end(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    with atomic_open(path) as file:
        file.write(b"half")
        file.flush()
        assert not path.exists()
        assert not list(tmp_path.glob("*.bin"))
    assert path.read_bytes() == b"half"


def test_files_have_the_usual_permissions(tmp_path: Path) -> None:
    plain, atomic = tmp_path / "plain", tmp_path / "atomic"
    plain.touch()

    def write() -> None:
        for _ in range(50):
            write_json(atomic, 1)

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    after = tmp_path / "after"
    after.touch()
    # Threads that write together must not change the permissions of files made later either.
    assert plain.stat().st_mode == atomic.stat().st_mode == after.stat().st_mode


def test_places_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/x\.json: cannot be written \(.*file is a file, expected a f"):
        write_json(tmp_path / "file/x.json", 1)
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="folder: is a folder"):
        write_json(tmp_path / "folder", 1)
    for path in (".", "..", "/", ""):  # which have no name that a neighbour could have
        with pytest.raises(UserError, match="is a folder; expected a file's path"):
            write_json(Path(path), 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_json_is_plain_text_in_the_given_order(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"b": "é", "a": [1]})
    assert path.read_bytes() == b'{\n    "b": "\\u00e9",\n    "a": [\n        1\n    ]\n}\n'
    assert list(read_json(path)) == ["b", "a"]


def test_json_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json(path) == {"a": 1}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not valid JSON"),
        (b'{"a": 1', "not valid JSON .* at line 1.*cut off"),
        (b'{"a": "b', "not valid JSON .* at line 1.*cut off"),
        (
            b'{"a": 1}\n{"a": 2}',
            "not valid JSON .Extra data at line 2.; there is more behind",
        ),
        (b"{'a': 1}", "not valid JSON .* at line 1.; mend it there"),
        (b'{"a": 1, // why\n "b": 2}', "not valid JSON .* at line 1.; mend it there"),
        (b'{"a": "\xff"}', "not UTF-8 text .* at byte 7"),
        (b'{"a": {"b": 1, "c": 2, "b": 3}}', "the key 'b' occurs twice"),
        (b"[" * 200_000, "not ours .*nested too deeply"),
        (b'{"a": [1, ' * 50 + b'{"b": 1}' + b"]}" * 50, "not ours .*nested too deeply"),
        (b"[" + b"1" * 5000 + b"]", "not .*(4300|digits)"),
        (b'{"a": NaN}', "holds the number NaN; expected finite numbers"),
        (b"[1, -Infinity]", "holds the number -Infinity"),
        (b"[1e999]", "holds the number 1e999"),
        (b'["\\ud83d\\ude00 ab \\udc00"]', r"holds half a character .* ab \\udc00"),
    ],
)
def test_json_faults_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"x\.json: {message}"):
        read_json(path)


def test_json_that_is_absent_or_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        read_json(tmp_path / "x.json")
    with pytest.raises(UserError, match="is a folder; expected a file"):
        read_json(tmp_path)


def test_json_may_be_nested_as_deep_as_anybody_means(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"a": [1, ' * 49 + '{"b": 1}' + "]}" * 49)
    assert repr(read_json(tmp_path / "x.json")).count("[") == 49


def test_json_that_others_write_may_hold_what_is_no_number(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"a": NaN, "smile": "\\ud83d\\ude00"}')
    found = read_json(tmp_path / "x.json", finite=False)
    assert math.isnan(found["a"])
    assert found["smile"] == "\U0001f600"


READERS: dict[str, Callable[[Path], object]] = {
    "x.json": read_json,
    "x.yaml": read_yaml,
    "x.csv": lambda path: list(read_rows(path)),
    "x.jsonl": lambda path: list(read_rows(path)),
    "x.parquet": lambda path: list(read_rows(path)),
    "x.jpg": read_frame,
    "x.tar": lambda path: TarFrames(path.parent),
    "x.npy": read_image_feature,
    "x-00000.safetensors": open_shard,
    "j.jsonl": lambda path: Journal(path, ("clip",), anew=""),
    "x.bin": file_hash,
    "fho_main.json": lambda path: list(raw_videos(path)),
    "EPIC.csv": lambda path: list(read_actions(path)),
}


@pytest.mark.parametrize("name", READERS)
def test_what_is_no_file_is_neither_waited_for_nor_read_without_end(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    for make, kind in (
        (os.mkfifo, "a named pipe"),
        (Path.mkdir, "a folder"),
        (lambda path: path.symlink_to("/dev/zero"), "a device"),
        (lambda path: socket.socket(socket.AF_UNIX).bind(str(path)), "a socket"),
    ):
        make(path)  # type: ignore[operator]
        with pytest.raises(UserError, match=rf"{name}: is {kind}; expected a file"):
            READERS[name](path)
        shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: 1\nb: [", "not valid YAML (expected the node content, but found '<stream end>' at line 2)"),
        (b"a: 1\n\tb: 2\n", "not valid YAML (found character '\\t' that cannot start any token at line 2)"),
        (b"a: \x07", "not valid YAML (unacceptable character #x0007: special characters are not allowed)"),
        (b"a: !!python/object/apply:os.getcwd []", "not valid YAML (could not determine a constructor for "),
        (b"\xff", "not UTF-8 text (invalid start byte at byte 0)"),
        (b"a: {b: 1, c: 2, b: 3}", "the key 'b' occurs twice in one object"),
        (b"[" * 1000, "not ours (objects or lists nested too deeply)"),
    ],
)
def test_what_is_wrong_with_yaml_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        read_yaml(path)
    assert str(error.value).startswith(f"{path}: {message}")
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="no such file"):
        read_yaml(tmp_path / "none.yaml")


def test_yaml_as_people_mean_it(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("a: 1e-4\nb: -2.5E3\nc: 2024-01-01\nd: 1e\ne: [1, 2.5, null, true]\n")
    found = {"a": 1e-4, "b": -2500.0, "c": "2024-01-01", "d": "1e", "e": [1, 2.5, None, True]}
    assert read_yaml(tmp_path / "x.yaml") == found
    for text in ("on", "No", "y", "010", "08", "1:30", "1:30.5", "2024-01-01", ".", "1e"):
        assert parse_yaml(text, "x") == text
    numbers = {"-3": -3, "0": 0, "0x1f": 31, "1_000": 1000, ".5": 0.5, "5.": 5.0, "-.inf": -math.inf}
    for text, number in numbers.items():
        assert repr(parse_yaml(text, "x")) == repr(number)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OSError(28, "No space left on device", "x"), "No space left on device"),
        (OSError("of a library"), "of a library"),
        (ValueError("\nfirst\nsecond"), "first"),
        (KeyError("k"), "'k'"),
        (RuntimeError(), "RuntimeError"),
    ],
)
def test_the_reason_of_an_error_is_one_line(error: Exception, text: str) -> None:
    assert reason(error) == text


def test_bytes_are_on_disk_before_their_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, events = tmp_path / "x.bin", list[str]()
    real, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (events.append(kind(handle)), real(handle)))
    monkeypatch.setattr(Path, "replace", lambda part, goal: (events.append("rename"), replace(part, goal))[1])

    def kind(handle: int) -> str:
        found = os.fstat(handle)
        return "folder" if stat.S_ISDIR(found.st_mode) else f"{found.st_size} bytes"

    with atomic_open(path) as file:
        file.write(b"four")
    assert events == ["4 bytes", "rename", "folder"]


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, synced = tmp_path / "new/made", set[int]()
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (synced.add(os.fstat(handle).st_ino), real(handle)))

    def interrupted() -> None:
        with atomic_folder(path) as part:
            (part / "a").write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(path.parent.iterdir()) == []
    with atomic_folder(path) as part:
        (part / "inner").mkdir()
        (part / "inner/a").write_bytes(b"whole")
        assert not path.exists()
    assert (path / "inner/a").read_bytes() == b"whole"
    assert {found.stat().st_ino for found in (path, path / "inner", path / "inner/a")} <= synced


def test_files_appear_whole_beside_others(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    (tmp_path / "other").touch()

    def interrupted() -> None:
        with atomic_files(tmp_path) as part:
            (part / "a").write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (tmp_path / "a").read_bytes() == b"old"
    (tmp_path / ".files.00000000-1-00000000.part/half").mkdir(parents=True)  # killed on another machine
    with atomic_files(tmp_path) as part:
        for name in ("a", "b"):
            (part / name).write_bytes(b"whole")
        assert (tmp_path / "a").read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "other"]
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() == b"whole"


def test_a_folder_that_another_run_made_first_stays(tmp_path: Path) -> None:
    path = tmp_path / "made"
    with atomic_folder(path) as mine:
        (mine / "a").write_bytes(b"mine")
        with atomic_folder(path) as other:
            (other / "a").write_bytes(b"other")
    assert (path / "a").read_bytes() == b"other"
    assert list(tmp_path.iterdir()) == [path]
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file: cannot be written"), atomic_folder(tmp_path / "file"):
        pass


def test_parts_of_ended_runs_are_removed_and_those_of_living_ones_stay(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    (tmp_path / "inner").mkdir()
    mine = part_of(tmp_path / "inner/x.npy")
    mine.touch()
    dead = mine.with_name(mine.name.replace(f"-{os.getpid()}-", f"-{ended.pid}-"))
    dead.mkdir()
    (dead / "a").touch()
    there = mine.with_name(mine.name.replace(this_host(), "00000000"))
    old = there.with_name(there.name.replace(".x.npy.", ".y.npy."))
    others = [mine, there, tmp_path / "inner/.x.tar.0123abcd.part", tmp_path / "x.part"]
    for path in (*others, old):
        path.touch()
    two_days_ago = time.time() - 2 * 86400
    os.utime(old, (two_days_ago, two_days_ago))
    clean_parts(tmp_path)
    assert sorted(path for path in tmp_path.rglob("*") if not path.is_dir()) == sorted(others)
    assert not dead.exists()


def test_a_folder_is_made_where_an_ended_run_left_its_part(tmp_path: Path) -> None:
    code = (
        "import os, pathlib; from egogen.files import atomic_folder; path = pathlib.Path('made')\n"
        "with atomic_folder(path) as part: (part / 'a').touch(); os._exit(1)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False).returncode == 1
    assert len(list(tmp_path.iterdir())) == 1
    with atomic_folder(tmp_path / "other"):
        pass
    assert len(list(tmp_path.iterdir())) == 2, "it is not of that result"
    with atomic_folder(tmp_path / "made") as part:
        (part / "b").touch()
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["b"]
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("9" * 5000, "a number of thousands of digits"),
        ("[" * 1500, "nested too deeply"),
        ("{a: " * 1500, "nested too deeply"),
        ("!!int x", "a value that is none of its type"),
        ("!!timestamp 3", "a value that is none of its type"),
        ("!!bool x", "a value that is none of its type"),
    ],
)
def test_values_that_nobody_means_are_one_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "x.yaml").write_text(f"a: {text}")
    with pytest.raises(UserError, match=rf"x\.yaml: not ours \(.*{message}") as caught:
        read_yaml(tmp_path / "x.yaml")
    assert len(str(caught.value)) < 400
    if text[0] in "9[":
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(UserError, match=rf"x\.json: not ours \(.*{message}"):
            read_json(tmp_path / "x.json")
