"""Drawn frames in tar files, with an index beside each: written by `ldm.sample --out-format webdataset`.

`frames-<part>-00000.tar` holds some frames as clip/action/frame, `frames-<part>-00000.index.json` where each
lies. A tar file appears whole, then its index; without it, or beside a file of another size, it is made anew.
"""

from __future__ import annotations

import io
import logging
import os
import tarfile
from array import array
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Int64

from egogen.errors import UserError
from egogen.files import atomic_open, read_json, write_json
from egogen.frames import TarFrames, add_bytes
from egogen.layout import find_frame, frame_tar, frame_tars, generated_names, tar_index
from egogen.walks import walk_names

log = logging.getLogger(__name__)


class PackedFrame(NamedTuple):
    """A frame in a tar file, as far as it is used like a path."""

    tar: Path
    name: str  # clip/action/frame
    offset: int
    size: int

    def __str__(self) -> str:
        return f"{self.tar}/{self.name}"

    def read_bytes(self) -> bytes:
        """The frame's file."""
        with self.tar.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)

    def open(self, mode: str = "rb") -> io.BytesIO:
        """The same, to be read."""
        assert mode == "rb"
        return io.BytesIO(self.read_bytes())

    def stat(self) -> os.stat_result:
        """Facts of the tar file."""
        return self.tar.stat()

    def is_file(self) -> bool:
        """Whether it can be there."""
        return self.tar.is_file()


FrameFile: TypeAlias = Path | PackedFrame


class PackedFrames(Mapping[str, PackedFrame]):
    """The frames in the tar files of a folder, by clip/action/frame; of one that is there twice, the first.

    Of an action drawn by two processes both frames are equal: its noise is keyed by it.

    Args:
        folder: holds the tar files.

    Raises:
        UserError: one is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.tars = frame_tars(folder)
        self.places: dict[str, tuple[int, int, int]] = {}
        for number, tar in enumerate(self.tars):
            with suppress(FileNotFoundError):  # another process has just set it aside
                for name, (offset, size) in index_of(tar).items():
                    self.places.setdefault(name, (number, offset, size))

    def __getitem__(self, name: str) -> PackedFrame:
        number, *place = self.places[name]
        return PackedFrame(self.tars[number], name, *place)

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)


def packed_names(folder: Path) -> Int64[np.ndarray, " n"]:
    """Hashes of the names of all frames in the tar files of a folder, in order; 8 bytes a frame.

    Of 10^6 frames one that is not there is taken for another once in 10^7 times (`egogen.distinct`).

    Tar files that are damaged are renamed to `.damaged`, so that their frames are drawn anew.
    """
    marks = array("q")
    for tar in frame_tars(folder):
        try:
            marks.extend(map(hash, index_of(tar)))
        except UserError as error:
            log.warning("%s; it is renamed to .damaged, and its frames are drawn anew", error)
            with suppress(FileNotFoundError):  # by another process
                tar.replace(tar.with_suffix(".damaged"))
            tar_index(tar).unlink(missing_ok=True)
        except FileNotFoundError:  # another process has just set it aside
            continue
    return np.sort(np.frombuffer(marks, np.int64))


def index_of(tar: Path) -> dict[str, tuple[int, int]]:
    """Offset and size of each frame in a tar file: by its index, which is made anew where it does not fit.

    Raises:
        UserError: the tar file is damaged.
    """
    path, size = tar_index(tar), tar.stat().st_size
    try:
        found = read_json(path) if path.exists() else {}
        if found.get("bytes") == size:
            return {name: (int(offset), int(length)) for name, (offset, length) in found["frames"].items()}
    except (UserError, LookupError, TypeError, ValueError, AttributeError):
        log.warning("%s: damaged; it is made anew", path)
    frames = {name: (member.offset, member.size) for name, member in TarFrames(tar).members.items()}
    write_index(tar, frames)
    return frames


def write_index(tar: Path, frames: Mapping[str, tuple[int, int]]) -> None:
    """Writes where the frames of a tar file lie."""
    write_json(tar_index(tar), {"bytes": tar.stat().st_size, "frames": frames}, indent=None)


def write_tar(tar: Path, frames: Mapping[str, bytes]) -> None:
    """Writes frames, by clip/action/frame, into a tar file that appears whole, and its index."""
    places = {}
    with atomic_open(tar) as file, tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as made:
        for name, content in frames.items():
            add_bytes(made, name, content)
            end = made.offset - -(-len(content) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
            places[name] = (end, len(content))
    write_index(tar, places)


class DrawnFrames:
    """The drawn frames of a folder, single files or in tar files, by clip/action/frame.

    Raises:
        UserError: a tar file is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.packed = PackedFrames(folder) if frame_tars(folder) else None

    @property
    def names(self) -> Iterator[str]:
        """Of all, in no order.

        Raises:
            UserError: a folder cannot be listed, or a link leads to nothing.
        """
        return walk_names(self.folder) if self.packed is None else iter(self.packed)

    def file(self, name: str) -> FrameFile:
        """The file of that name."""
        return self.folder / name if self.packed is None else self.packed[name]

    def find(self, frame: str) -> FrameFile:
        """A frame by its own name or by that of another format; its own path if it is not there."""
        if self.packed is None:
            return find_frame(self.folder, frame)
        name = next((name for name in generated_names(frame) if name in self.packed), None)
        return self.folder / frame if name is None else self.packed[name]


def frame_ending(name: str) -> str:
    """Ending of a frame's name, in small letters."""
    return PurePosixPath(name).suffix.lower().lstrip(".")


def next_tar(folder: Path, part: str) -> Path:
    """The first name of a tar file that is free."""
    number = 0
    while (path := frame_tar(folder, part, number)).exists() or path.with_suffix(".damaged").exists():
        number += 1
    return path
