"""Frames from folders and from tar files; damaged ones are named."""

from __future__ import annotations

import io
import os
import struct
import tarfile
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from egogen.cli import run
from egogen.errors import UserError
from egogen.files import atomic_open
from egogen.frames import FolderFrames, TarFrames, encoded, image_size, open_frames, pack, read_frame
from egogen.layout import Layout, tar_folder
from egogen.pack import main as pack_command
from egogen.stats.measure import measure
from egogen.toy.world import write_world
from egogen.validate.frame_files import probe
from tests.small_disk import largest_file

NAMES = ["a/0/x.jpg", "a/1/y.png", f"{'long' * 40}/z.jpg"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in NAMES:
        path = tmp_path / "frames" / name
        path.parent.mkdir(parents=True)
        Image.fromarray(rng.integers(0, 255, (40, 64, 3), np.uint8)).save(path)
    return tmp_path / "frames"


def test_tar_files_give_the_same_frames(folder: Path, tmp_path: Path) -> None:
    paths = pack(folder, NAMES, tmp_path / "tars", frames_per_tar=2)
    assert [path.name for path in paths] == ["frames-00000.tar", "frames-00001.tar"]
    tars, files = TarFrames(tmp_path / "tars"), FolderFrames(folder)
    for name in NAMES:
        assert np.array_equal(np.asarray(tars.read(name)), np.asarray(files.read(name)))
        tars.check(name)
        files.check(name)


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_second_name_of_a_file_has_its_content(folder: Path, tmp_path: Path, form: int) -> None:
    """Of files with several names (hard links) tar keeps the content once."""
    for number, name in enumerate(("b/2.png", "c/3.png")):
        (folder / name).parent.mkdir()
        (folder / name).hardlink_to(folder / NAMES[number // 2])
    (tmp_path / "tars").mkdir()
    with tarfile.open(tmp_path / "tars/x.tar", "w", format=form) as tar:
        tar.add(folder, ".")
        kinds = [member.islnk() for member in tar.getmembers()]
    assert sum(kinds) == 2
    tars, files = TarFrames(tmp_path / "tars"), FolderFrames(folder)
    assert {*tars.members} == {*NAMES, "b/2.png", "c/3.png"}
    for name in tars.members:
        assert tars.bytes(name) == (folder / name).read_bytes()
        assert np.array_equal(np.asarray(tars.read(name)), np.asarray(files.read(name)))


def test_a_second_name_of_what_is_not_in_the_file_is_no_frame(folder: Path, tmp_path: Path) -> None:
    """Neither of a file on this machine nor of one in the tar file beside it."""
    pack(folder, NAMES, tmp_path / "tars")
    with tarfile.open(tmp_path / "tars/more.tar", "w") as tar:
        for number, goal in enumerate((f"{folder / NAMES[0]}", f"../frames/{NAMES[0]}", NAMES[0])):
            member = tarfile.TarInfo(f"link{number}.jpg")
            member.type, member.linkname = tarfile.LNKTYPE, goal
            tar.addfile(member)
    tars = TarFrames(tmp_path / "tars")
    assert {*tars.members} == {*NAMES}
    with pytest.raises(UserError, match=r"no tar file here holds frame 'link0\.jpg'"):
        tars.read("link0.jpg")


def test_what_macos_puts_beside_tar_files_is_none(folder: Path, tmp_path: Path) -> None:
    pack(folder, NAMES, tmp_path / "tars")
    (tmp_path / "tars/._frames-00000.tar").write_bytes(b"\0\5\x16\7")
    assert set(TarFrames(tmp_path / "tars").members) == set(NAMES)
    (folder / "._x.tar").write_bytes(b"\0\5\x16\7")
    assert isinstance(open_frames(folder), FolderFrames)


def test_the_same_input_gives_the_same_bytes_and_finished_files_stay(folder: Path, tmp_path: Path) -> None:
    (first,) = pack(folder, NAMES, tmp_path / "one")
    (folder / NAMES[0]).touch()
    (second,) = pack(folder, NAMES, tmp_path / "two")
    assert first.read_bytes() == second.read_bytes()
    before = first.stat().st_mtime_ns
    pack(folder, NAMES, tmp_path / "one")
    assert first.stat().st_mtime_ns == before
    for size in (0, 600, first.stat().st_size // 2):
        os.truncate(first, size)
        pack(folder, NAMES, tmp_path / "one")
        assert first.read_bytes() == second.read_bytes()


def test_the_command_packs_a_split(tmp_path: Path) -> None:
    write_world(tmp_path, 3, 1, size=32, workers=1)
    pack_command(["--dataset", "ego4d", "--split", "train", "--out", str(tmp_path / "tars"),
                  "--data-root", str(tmp_path)])  # fmt: skip
    tars = TarFrames(tar_folder(tmp_path / "tars", "ego4d", "train"))
    folder = Layout(tmp_path, "ego4d").frames("train")
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*.jpg")]
    assert sorted(tars.members) == sorted(names)


def cut(path: Path, keep: int) -> None:
    path.write_bytes(path.read_bytes()[:keep])


def test_damaged_tar_files_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no tar file here"):
        TarFrames(tmp_path)
    (path,) = pack(folder, NAMES, tmp_path / "tars")
    tars = TarFrames(tmp_path / "tars")
    with pytest.raises(UserError, match=r"no tar file here holds frame 'b\.jpg'"):
        tars.read("b.jpg")
    cut(path, 700)
    with pytest.raises(UserError, match=r"frames-00000\.tar: (cut off|not a readable)"):
        TarFrames(tmp_path / "tars")
    cut(path, 100)
    with pytest.raises(UserError, match=r"not a readable tar file"):
        TarFrames(tmp_path / "tars")


def test_one_name_in_two_tar_files_is_named(folder: Path, tmp_path: Path) -> None:
    pack(folder, NAMES, tmp_path / "tars")
    content = io.BytesIO(b"12")
    with tarfile.open(tmp_path / "tars" / "more.tar", "w") as tar:
        member = tarfile.TarInfo(NAMES[0])
        member.size = 2
        tar.addfile(member, content)
    with pytest.raises(UserError, match=r"more\.tar: frame 'a/0/x\.jpg' is in"):
        TarFrames(tmp_path / "tars")


@pytest.mark.parametrize("coarse", [False, True])
def test_a_cut_off_jpeg_is_named(folder: Path, coarse: bool) -> None:
    path = folder / NAMES[0]
    cut(path, path.stat().st_size * 2 // 3)
    frames = FolderFrames(folder)
    with pytest.raises(UserError, match=r"x\.jpg: not a readable image"):
        (frames.check if coarse else frames.read)(NAMES[0])
    with pytest.raises(UserError, match=r"q\.jpg: no such frame"):
        frames.check("q.jpg")
    with pytest.raises(UserError, match=r"cannot be read"):
        pack(folder, ["none.jpg"], folder / "tars")


def test_a_picture_of_too_many_pixels_is_refused_by_its_header(root: Path) -> None:
    """400 megapixels: a PNG of a few bytes that would take gigabytes (the libpng specification, 11.2.2)."""
    size = struct.pack(">II5B", 20_000, 20_000, 8, 2, 0, 0, 0)
    head = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", len(size)) + b"IHDR" + size
    content = head + struct.pack(">I", zlib.crc32(b"IHDR" + size)) + struct.pack(">I", 0) + b"IDAT"
    path = next((root / "EgoGen/ego4d.fho/train").rglob("*45.jpg"))
    path.write_bytes(content + struct.pack(">I", zlib.crc32(b"IDAT")))
    with pytest.raises(UserError, match=r"45\.jpg: not a readable image .*decompression bomb"):
        read_frame(path)
    assert image_size(path) is None
    assert measure(Layout(root, "ego4d"), "train", workers=1).missing == 1
    assert "decompression bomb" in (probe(path).fault or "")


def test_a_tar_file_holds_a_frame_at_least(tmp_path: Path) -> None:
    words = ["--dataset", "ego4d", "--split", "val", "--out", str(tmp_path), "--frames-per-tar", "0"]
    with pytest.raises(UserError, match="--frames-per-tar 0: expected 1 or more"):
        pack_command(words)


def test_tar_files_lie_outside_the_data(root: Path) -> None:
    inside = Layout(root, "ego4d").frames("val")
    words = ["--dataset", "ego4d", "--split", "val", "--data-root", str(root), "--out", str(inside)]
    with pytest.raises(UserError, match=r"--out .*val: lies in .*EgoGen, which holds the data"):
        pack_command(words)


def test_a_photo_of_a_hundred_megapixels_is_no_warning(tmp_path: Path) -> None:
    Image.new("1", (10_000, 10_000)).save(tmp_path / "x.png")
    found = []
    with warnings.catch_warnings(record=True) as told:
        run(lambda: found.append(image_size(tmp_path / "x.png")))
    assert found == [(10_000, 10_000)]
    assert not told


def test_a_picture_that_a_full_disk_takes_a_part_of_is_not_written(tmp_path: Path) -> None:
    """Witness: the system's own limit. Left to write the file itself, Pillow cuts a JPEG without a word."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8))
    with (
        largest_file(20_000),
        pytest.raises(UserError, match="not written"),
        atomic_open(tmp_path / "a") as file,
    ):
        file.write(encoded(noise, "JPEG", quality=90))
    assert not list(tmp_path.iterdir())
