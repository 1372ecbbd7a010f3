"""Frames that are image files: EPIC-KITCHENS' numbered ones in a folder or a tar file, or a list of files."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from PIL import Image

from egogen.errors import UserError, shorten
from egogen.frames import FolderFrames, FrameStore, TarFrames, read_frame
from egogen.prepare.pair_plan import AFTER_END, DAMAGED, MISSING, UNREADABLE, Lost, Place, Stamp

FRAME = re.compile(r"frame_\d{10}\.jpg")  # as EPIC-KITCHENS names them


class Stills(ABC):
    """An open source whose frames are files that are read one by one."""

    fps: float | None

    @abstractmethod
    def read(self, position: int) -> Image.Image:
        """Reads a frame; raises `UserError` if it is damaged."""

    def images(self, positions: Sequence[int]) -> Iterator[tuple[int, Image.Image | None]]:
        """Reads frames; None stands for one that is damaged."""
        for position in positions:
            try:
                yield position, self.read(position)
            except UserError:
                yield position, None


@dataclass(frozen=True)
class FrameFiles:
    """Files `frame_0000000001.jpg` and on, in a folder or in a tar file, of a video of `fps` Hz."""

    path: Path
    fps: float

    @property
    def name(self) -> str:
        """Names the source among others of its kind."""
        return self.path.stem

    @contextmanager
    def open(self) -> Iterator[NumberedFrames]:
        """Lists the frames; raises `Lost` if there are none of these names, or the tar file is damaged."""
        try:
            frames = NumberedFrames(self)
        except (UserError, OSError) as error:
            raise Lost(UNREADABLE, str(error)) from None
        yield frames


class NumberedFrames(Stills):
    """Frames by their number."""

    def __init__(self, files: FrameFiles) -> None:
        self.fps = files.fps
        self.store: FrameStore
        if files.path.is_file():
            self.store = TarFrames(files.path)
            names = list(self.store.members)
        else:
            self.store = FolderFrames(files.path)
            names = [path.name for path in files.path.iterdir()]
        # In some tar files the frames are in a folder.
        self.names = {PurePosixPath(name).name: name for name in names}
        self.last = max(filter(FRAME.fullmatch, self.names), default="")
        if not self.last:
            found = f"such as {shorten(min(self.names))}" if self.names else "nothing"
            raise UserError(f"{files.path}: holds {found}; expected frames named such as {file_name(1)}")

    def find(self, place: Place) -> int:
        """The number itself; raises `Lost` if there is no such frame."""
        assert isinstance(place, int)
        if file_name(place) not in self.names:
            raise Lost(AFTER_END if file_name(place) > self.last else DAMAGED)
        return place

    def around(self, position: int, distance: int) -> list[int]:
        """Numbers of the frames at most so many frames away."""
        near = range(position - distance, position + distance + 1)
        return [number for number in near if file_name(number) in self.names]

    def stamp(self, position: int) -> Stamp:
        """The time of a frame by its number."""
        assert self.fps is not None
        return Stamp(None, position / self.fps)

    def read(self, position: int) -> Image.Image:
        """Reads a frame."""
        return self.store.read(self.names[file_name(position)])


def file_name(number: int) -> str:
    """Name of a frame in EPIC-KITCHENS' folders and tar files."""
    return f"frame_{number:010d}.jpg"


@dataclass(frozen=True)
class ImageFiles(Stills):
    """Image files in a given order; positions are places in it; `name` tells it from others of its kind."""

    name: str
    files: tuple[Path, ...]
    fps: None = None

    @contextmanager
    def open(self) -> Iterator[ImageFiles]:
        """Is open always."""
        yield self

    def find(self, place: Place) -> int:
        """The place of an image; raises `Lost` if there is no such file."""
        assert isinstance(place, int)
        try:
            there = self.files[place].is_file()
        except OSError:  # a name that is too long, or a folder that may not be entered
            there = False
        if not there:
            raise Lost(MISSING, f"{self.files[place]}: no such image")
        return place

    def around(self, position: int, distance: int) -> list[int]:  # noqa: ARG002 - images have no neighbours
        """The image alone."""
        return [position]

    def stamp(self, position: int) -> Stamp:  # noqa: ARG002 - nor times
        """Not known."""
        return Stamp(None, None)

    def read(self, position: int) -> Image.Image:
        """Reads an image."""
        return read_frame(self.files[position])
