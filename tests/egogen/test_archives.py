"""Archives: split ones are read as one; nothing leaves its folder, nothing explodes, nothing is lost."""

from __future__ import annotations

import io
import os
import random
import shutil
import stat
import struct
import subprocess
import zipfile
from contextlib import suppress
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from egogen import disk
from egogen.archives import unpack as archives
from egogen.archives.split_zip import group_archives, joined
from egogen.archives.unpack import unpack
from egogen.errors import UserError
from tests.egogen.split_archive import split_archive, whole_archive

RANDOM = random.Random(0)
FILES = {f"EgoGen/{number}/x.bin": RANDOM.randbytes(700) for number in range(20)} | {"EgoGen/empty": b""}


def save(folder: Path, parts: list[bytes], stem: str = "a") -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{stem}.z{number:02d}" for number in range(1, len(parts))] + [folder / f"{stem}.zip"]
    for path, content in zip(paths, parts, strict=True):
        path.write_bytes(content)
    return paths


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def everything(folder: Path) -> archives.Place:
    return lambda name: folder / name


@pytest.mark.parametrize("zip64", [False, True], ids=["32 bits", "64 bits"])
@pytest.mark.parametrize("size", [97, 1000, 4096, 10**6])
def test_split_archives(tmp_path: Path, size: int, zip64: bool) -> None:
    paths = save(tmp_path, split_archive(FILES, size, zip64))
    assert unpack(paths, tmp_path, everything(tmp_path / "out")) == (21, 0, 0)
    assert contents(tmp_path / "out") == FILES


@settings(deadline=None, max_examples=25)
@given(size=st.integers(64, 3000), zip64=st.booleans(), lengths=st.lists(st.integers(0, 900), max_size=8))
def test_any_split_is_read(
    tmp_path_factory: pytest.TempPathFactory, size: int, zip64: bool, lengths: list[int]
) -> None:
    files = {f"{number}.bin": RANDOM.randbytes(length) for number, length in enumerate(lengths)}
    paths = save(tmp_path_factory.mktemp("split"), split_archive(files, size, zip64))
    with joined(paths) as whole, zipfile.ZipFile(whole) as archive:
        assert archive.testzip() is None
        assert {name: archive.read(name) for name in archive.namelist()} == files


@pytest.mark.skipif(shutil.which("zip") is None, reason="Info-ZIP is not installed")
@pytest.mark.parametrize("options", [(), ("-fz",), ("-0",)], ids=["deflated", "64 bits", "stored"])
def test_archives_of_info_zip(tmp_path: Path, options: tuple[str, ...]) -> None:
    for name, content in FILES.items():
        path = tmp_path / "src" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content and RANDOM.randbytes(14_000))
    command = ["zip", "-q", "-r", *options, "-s", "64k", "../split.zip", "EgoGen"]
    subprocess.run(command, cwd=tmp_path / "src", check=True)
    (found,) = group_archives(path.name for path in tmp_path.iterdir() if path.is_file())
    assert len(found.parts) > 3
    unpack([tmp_path / part for part in found.parts], tmp_path, everything(tmp_path / "out"))
    assert contents(tmp_path / "out") == contents(tmp_path / "src")


def test_plain_pieces(tmp_path: Path) -> None:
    whole = whole_archive(FILES)
    pieces = [tmp_path / f"a.zip.{number:03d}" for number in range(1 + len(whole) // 5000)]
    for number, path in enumerate(pieces):
        path.write_bytes(whole[number * 5000 : (number + 1) * 5000])
    unpack(pieces, tmp_path, everything(tmp_path / "out"))
    assert contents(tmp_path / "out") == FILES


def test_which_files_belong_together() -> None:
    names = [
        "b/x.zip",
        "b/x.z02",
        "b/x.z01",
        "y.ZIP",
        "z.zip.ab",
        "z.zip.aa",
        "notes.txt",
        "w.zip.json",
        "q.z100",
    ]
    names += [f"q.z{number:02d}" for number in (99, 98)]
    assert [(archive.name, archive.parts) for archive in group_archives(names)] == [
        ("b/x", ["b/x.z01", "b/x.z02", "b/x.zip"]),
        ("q", ["q.z98", "q.z99", "q.z100"]),
        ("y", ["y.ZIP"]),
        ("z", ["z.zip.aa", "z.zip.ab"]),
    ]


@pytest.mark.parametrize("lost", [0, 1, -1], ids=["first", "second", "last"])
def test_a_missing_part(tmp_path: Path, lost: int) -> None:
    paths = save(tmp_path, split_archive(FILES, 4096))
    del paths[lost]
    with pytest.raises(UserError, match=r"(the archive has 4 parts, found 3|not a whole zip archive)"):
        unpack(paths, tmp_path, everything(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("cut", [1, 30, 2000, 100_000])
@pytest.mark.parametrize("part_size", [10**6, 4096])
def test_a_cut_archive(tmp_path: Path, cut: int, part_size: int) -> None:
    paths = save(tmp_path, split_archive(FILES, part_size))
    paths[-1].write_bytes(paths[-1].read_bytes()[:-cut])
    with pytest.raises(UserError, match=r"a\.zip: .*fetch (it again|the missing ones)"):
        unpack(paths, tmp_path, everything(tmp_path / "out"))


def test_a_damaged_file_is_not_kept(tmp_path: Path) -> None:
    content = bytearray(whole_archive(FILES, zipfile.ZIP_STORED))
    content[100] ^= 1
    with pytest.raises(UserError, match="not a whole zip archive"):
        unpack(save(tmp_path, [bytes(content)]), tmp_path, everything(tmp_path / "out"))
    assert "EgoGen/0/x.bin" not in contents(tmp_path / "out")


@settings(deadline=None, max_examples=150)
@given(place=st.integers(0, 10**6), byte=st.integers(0, 255), part_size=st.sampled_from([200, 10**6]))
def test_a_changed_byte_is_survived(
    tmp_path_factory: pytest.TempPathFactory, place: int, byte: int, part_size: int
) -> None:
    folder = tmp_path_factory.mktemp("changed")
    parts = split_archive({"a/b.txt": b"x" * 90, "c.txt": b"y" * 50}, part_size, zip64=byte % 2 == 0)
    place %= sum(map(len, parts))
    for index, part in enumerate(parts):
        if place < len(part):
            parts[index] = part[:place] + bytes([byte]) + part[place + 1 :]
            break
        place -= len(part)
    with suppress(UserError):
        unpack(save(folder, parts), folder, everything(folder / "out"))
    assert {path.name for path in folder.iterdir()} <= {"out", *(path.name for path in folder.glob("a.z*"))}


def archive_of(name: str, mode: int = 0, content: bytes = b"x") -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        info = zipfile.ZipInfo("good.txt")
        archive.writestr(info, b"good")
        info = zipfile.ZipInfo(name)
        info.external_attr = mode << 16
        archive.writestr(info, content)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("name", "mode", "message"),
    [
        ("../evil.txt", 0, r"contains '\.\.'"),
        ("a/../../evil.txt", 0, r"contains '\.\.'"),
        ("/etc/evil", 0, "is an absolute path"),
        ("C:\\evil", 0, "is an absolute path"),
        ("a\\..\\..\\evil", 0, r"contains '\.\.'"),
        ("link", stat.S_IFLNK | 0o777, "is a link or a device"),
        ("fifo", stat.S_IFIFO | 0o644, "is a link or a device"),
    ],
)
@pytest.mark.parametrize("part_size", [10**6, 64], ids=["whole", "split"])
def test_unsafe_entries_stop_everything(
    tmp_path: Path, name: str, mode: int, message: str, part_size: int
) -> None:
    plain = archive_of(name, mode, b"/etc/passwd")
    paths = save(tmp_path / "in", [plain[i : i + part_size] for i in range(0, len(plain), part_size)])
    with pytest.raises(UserError, match=f"{message}.*nothing was unpacked"):
        unpack(paths, tmp_path, everything(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_two_files_of_one_place(tmp_path: Path) -> None:
    paths = save(tmp_path, [whole_archive({"a/x": b"1", "b/x": b"2"})])
    with pytest.raises(UserError, match="'a/x' and 'b/x' are both"):
        unpack(paths, tmp_path, lambda name: tmp_path / "out" / name.name)
    assert not (tmp_path / "out").exists()


def test_encrypted_entries(tmp_path: Path) -> None:
    content = bytearray(whole_archive({"a": b"1"}))
    content[content.rfind(b"PK\1\2") + 8] |= 1
    with pytest.raises(UserError, match="is encrypted"):
        unpack(save(tmp_path, [bytes(content)]), tmp_path, everything(tmp_path / "out"))


def test_a_zip_bomb(tmp_path: Path) -> None:
    paths = save(tmp_path, [whole_archive({"zeros": bytes(50_000_000)})])
    with pytest.raises(UserError, match=r"would unpack from .* to 50\.0 MB, as a zip bomb does"):
        unpack(paths, tmp_path, everything(tmp_path / "out"))
    # Small files of zeros are none: features of tests and empty masks shrink as much.
    unpack(
        save(tmp_path, [whole_archive({"zeros": bytes(2_600_000)})], "b"),
        tmp_path,
        everything(tmp_path / "ok"),
    )


def test_entries_that_overlap(tmp_path: Path) -> None:
    content = bytearray(
        whole_archive({"a": RANDOM.randbytes(5000), "b": RANDOM.randbytes(5000)}, zipfile.ZIP_STORED)
    )
    second = content.rfind(b"PK\1\2")
    (begin,) = struct.unpack("<L", content[second + 42 : second + 46])
    room = len(content) - begin - 30  # behind the header of 30 bytes
    for fields, message in (
        ({20: room + 1, 24: room + 1}, "overlap or reach behind its end.*nothing was unpacked"),
        ({20: room, 24: room}, "not a whole zip archive"),  # too long, as only its reading shows
        ({42: 0}, "overlap"),  # both are the first
        ({42: 30 + 4999}, "overlap"),
        ({42: 30 + 5000}, "not a whole zip archive"),
    ):
        changed = bytearray(content)
        for at, value in fields.items():
            changed[second + at : second + at + 4] = value.to_bytes(4, "little")
        with pytest.raises(UserError, match=message):
            unpack(save(tmp_path, [bytes(changed)]), tmp_path, everything(tmp_path / "out"))
        assert "overlap" not in message or not (tmp_path / "out").exists()
        shutil.rmtree(tmp_path / "out", ignore_errors=True)


def test_too_many_entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_ENTRIES", 20)
    with pytest.raises(UserError, match="holds 21 entries, more than the 20 allowed"):
        unpack(save(tmp_path, [whole_archive(FILES)]), tmp_path, everything(tmp_path / "out"))


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=disk.SPARE_BYTES + 13_999)
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UserError, match=r"a\.zip needs 14\.0 kB and 67\.1 MB to spare, the disk has 67"):
        unpack(save(tmp_path, [whole_archive(FILES)]), tmp_path, everything(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_second_run_goes_on(tmp_path: Path) -> None:
    paths, out = save(tmp_path, [whole_archive(FILES)]), tmp_path / "out"
    unpack(paths, tmp_path, everything(out))
    (out / "EgoGen/3/x.bin").unlink()
    assert unpack(paths, tmp_path, everything(out)) == (1, 20, 0)
    for size in (0, 5):
        os.truncate(out / "EgoGen/3/x.bin", size)  # as a crash of the machine leaves it
        assert unpack(paths, tmp_path, everything(out)) == (1, 20, 0)
    (out / "EgoGen/4/x.bin").write_bytes(bytes(700))
    with pytest.raises(UserError, match=r"4/x\.bin: there already, with other bytes than in .*move it away"):
        unpack(paths, tmp_path, everything(out))
    assert (out / "EgoGen/4/x.bin").read_bytes() == bytes(700)


def test_entries_without_a_place_are_left_out(tmp_path: Path) -> None:
    def place(name: PurePosixPath) -> Path | None:
        return tmp_path / "out" / name.name if name.suffix == "" else None

    assert unpack(save(tmp_path, [whole_archive(FILES)]), tmp_path, place) == (1, 0, 20)
    assert contents(tmp_path / "out") == {"empty": b""}
