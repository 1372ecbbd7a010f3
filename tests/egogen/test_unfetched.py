"""A pointer of Git LFS or a server's page in a file's place is told as that, whichever reader meets it."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from egogen.csv_rows import read_csv
from egogen.errors import UserError
from egogen.features.npy import load
from egogen.features.weight_files import read_tensors
from egogen.files import atomic_open, read_json, read_yaml
from egogen.frames import TarFrames, add_bytes, read_frame
from egogen.prepare.ego4d.ego4d_file import read_videos
from egogen.prepare.formats.image_table import read_rows
from egogen.prepare.frames.video import VideoFile
from egogen.prepare.pair_plan import Lost

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 123456\n"
PAGE = b"\n<!DOCTYPE html>\n<html><title>Sign in</title></html>"
READERS: dict[str, Callable[[Path], object]] = {
    "a.json": read_json,
    "fho_main.json": lambda path: list(read_videos(path, ("pre_15", "pnr_frame"), clips=True)),
    "a.yaml": read_yaml,
    "a.csv": read_csv,
    "a.jsonl": lambda path: list(read_rows(path)),
    "a.parquet": lambda path: list(read_rows(path)),
    "a.npy": load,
    "a.png": read_frame,
    "a.tar": TarFrames,
    "a.mp4": lambda path: VideoFile(path).open().__enter__(),
    "a.safetensors": read_tensors,
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize(
    ("content", "told"),
    [(POINTER, "a pointer of Git LFS, .* git lfs pull"), (PAGE, "a web page or a server's answer")],
)
def test_every_reader_says_so(tmp_path: Path, name: str, content: bytes, told: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises((UserError, Lost), match=f"{name}: {told}"):
        READERS[name](path)


def test_a_frame_in_a_tar_file_likewise(tmp_path: Path) -> None:
    import tarfile

    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        add_bytes(tar, "c/0/x.jpg", POINTER)
    with pytest.raises(UserError, match=r"x\.jpg: a pointer of Git LFS"):
        TarFrames(tmp_path / "a.tar").read("c/0/x.jpg")


@pytest.mark.parametrize("content", [b"", bytes(5000)])
def test_nothing_at_all_is_no_heic(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.jpg: not a readable image \(empty, or zeros\); copy it again"):
        read_frame(tmp_path / "a.jpg")
    (tmp_path / "a.mp4").write_bytes(b"")
    with pytest.raises(Lost, match=r"a\.mp4: empty; copy it again"):
        VideoFile(tmp_path / "a.mp4").open().__enter__()


def test_a_good_picture_that_is_not_read_is_not_called_cut_off(tmp_path: Path) -> None:
    texts = PngImagePlugin.PngInfo()
    texts.add_text("workflow", "x" * (3 << 20), zip=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png", pnginfo=texts)
    with pytest.raises(UserError, match=r"its texts or its colour profile are larger than is read; save it"):
        read_frame(tmp_path / "a.png")
    header = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(header, "PNG")
    (tmp_path / "b.png").write_bytes(header.getvalue())
    with pytest.raises(UserError, match=r"b\.png: .*exceeds limit.*; make it smaller"):
        read_frame(tmp_path / "b.png")


def test_bytes_behind_the_last_tensor_are_no_cut(tmp_path: Path) -> None:
    from safetensors.numpy import save

    whole = save({"a": np.zeros((3, 4), np.float32)})
    (tmp_path / "a.safetensors").write_bytes(whole + b"more")
    with pytest.raises(UserError, match="4 bytes are behind its tensors; download it again"):
        read_tensors(tmp_path / "a.safetensors")
    (tmp_path / "a.safetensors").write_bytes(whole[:-1])
    with pytest.raises(UserError, match="is it cut off"):
        read_tensors(tmp_path / "a.safetensors")


def test_a_file_where_a_folder_is_wanted_is_named(tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(b"")
    for inner in ("x.png", "deeper/x.png"):
        with (
            pytest.raises(
                UserError, match=r"cannot be written \(.*photo\.png is a file, expected a folder\)"
            ),
            atomic_open(tmp_path / "photo.png" / inner),
        ):
            pass
