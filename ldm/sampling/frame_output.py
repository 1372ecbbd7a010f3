"""Where drawn frames go: a file each, or many in a tar file; and which of them are there already."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from egogen.blocks import in_blocks
from egogen.distinct import among
from egogen.files import atomic_open
from egogen.layout import OutFormat
from egogen.packed_frames import next_tar, packed_names, write_tar
from egogen.seen_files import SeenFiles
from egogen.unfinished import Neighbours
from egogen.validate.frame_files import probe

IMAGES, JOURNALS = "images", "drawn"
MOST_FRAMES, MOST_SECONDS = 1000, 300.0  # of a tar file: what a killed process may lose
log = logging.getLogger(__name__)


class FrameFiles:
    """A file a frame, written at once. A journal of them saves a restart from reading them all.

    Args:
        out: the run's folder.
        part: whose journal this process writes.
    """

    def __init__(self, out: Path, part: str = "") -> None:
        self.images = out / IMAGES
        self.seen = SeenFiles(out / JOURNALS, self.images, part)
        self.neighbours = Neighbours()

    def missing(self, names: Iterable[str]) -> Iterator[bool]:
        """Which are not there, or are damaged; of what is in no journal the file is read."""
        for block in in_blocks(names):
            there, unchanged = self.seen.unchanged(block)
            for name, found, known in zip(block, there.tolist(), unchanged.tolist(), strict=True):
                yield not (known or (found and self.is_whole(name)))
        self.seen.flush()

    def is_whole(self, name: str) -> bool:
        """Whether a frame that is there can be decoded to its end."""
        whole = is_drawn(self.images / name)
        if whole:
            self.seen.note(name)
        return whole

    def add(self, name: str, content: bytes) -> None:
        """Writes a frame atomically."""
        path = self.images / name
        self.neighbours.clean(path.parent)
        with atomic_open(path) as file:
            file.write(content)
        self.seen.note(name)

    def flush(self) -> None:
        """Writes the journal."""
        self.seen.flush()


class FrameTars:
    """Frames in tar files that appear whole, each of so many frames, or of so many seconds' work.

    Args:
        out: the run's folder.
        part: whose tar files this process writes.
    """

    def __init__(self, out: Path, part: str = "") -> None:
        self.images, self.part = out / IMAGES, part
        self.waiting: dict[str, bytes] = {}
        self.since = 0.0

    def missing(self, names: Iterable[str]) -> Iterator[bool]:
        """Which no tar file holds; one that is damaged is set aside."""
        there = packed_names(self.images)
        for block in in_blocks(names):
            yield from (~among(np.fromiter(map(hash, block), np.int64), there)).tolist()

    def add(self, name: str, content: bytes) -> None:
        """Keeps a frame in memory until there are enough."""
        if not self.waiting:
            self.since = time.monotonic()
        self.waiting[name] = content
        if len(self.waiting) >= MOST_FRAMES or time.monotonic() - self.since > MOST_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Writes what is in memory."""
        if self.waiting:
            write_tar(next_tar(self.images, self.part), self.waiting)
            self.waiting = {}


FrameOutput = FrameFiles | FrameTars


def open_output(form: OutFormat, out: Path, part: str = "") -> FrameOutput:
    """The output of a run's folder, in a form."""
    return FrameTars(out, part) if form == "webdataset" else FrameFiles(out, part)


def is_drawn(path: Path) -> bool:
    """Whether a frame is there and can be decoded to its end."""
    if not path.exists():
        return False
    fault = probe(path).fault
    if fault:
        log.warning("%s: %s; it is drawn anew", path, fault)
    return not fault
