"""Looks at every frame of a split once: is it whole, how large is it, what are its bytes?"""

from __future__ import annotations

import hashlib
import io
from array import array
from collections.abc import Callable, Iterable, Iterator
from fnmatch import fnmatchcase
from itertools import compress
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import Int64

from egogen.annotations import Item
from egogen.blocks import in_blocks
from egogen.distinct import among
from egogen.errors import UserError, reason
from egogen.files import regular
from egogen.frames import JPEG_END, decode, image_size
from egogen.layout import Layout, Split
from egogen.progress import Progress
from egogen.stored_items import choose
from egogen.unfinished import PARTS
from egogen.validate.check_report import Check
from egogen.validate.text_checks import SplitItems
from egogen.walks import is_hidden, walk

JPEG_START = b"\xff\xd8"
# Cameras may add some bytes after the end of the picture.
TRAILER = 1024
AT_ONCE = 1 << 13  # frames that wait for a thread
Input = TypeVar("Input")
Output = TypeVar("Output")


class Probe(NamedTuple):
    """What a frame's file is: width and height in pixels, SHA-256 of its bytes, or what is wrong with it."""

    size: tuple[int, int] | None
    sha256: bytes
    fault: str | None


class SplitFrames:
    """A split: its actions, the files of its folder, and the frames among them that actions name.

    A frame has a number, in the order in which they are named; what is known of it takes some 40 bytes.

    Args:
        layout: the data set.
        split: train or val.
        read: its actions.
        workers: threads that look at frames.
    """

    def __init__(self, layout: Layout, split: Split, read: SplitItems, workers: int) -> None:
        self.layout, self.split, self.read, self.items = layout, split, read, read.items
        self.folder = layout.frames(split)
        marks, firsts, which = np.unique(
            np.array(read.frames, np.int64), return_index=True, return_inverse=True
        )
        order = np.argsort(firsts)
        self.firsts = firsts[order]  # where each is named first, among all inputs and targets
        self.of_actions = np.argsort(order)[which].reshape(-1, 2)  # input and target of each action
        listed = list_marks(self.folder, np.sort(np.concatenate([marks, np.array(read.normal, np.int64)])))
        self.count, self.extra = listed.total, listed.extra
        self.contents = marks[order]  # what tells a frame from others: its name's hash or, once read, its own
        self.present = among(self.contents, listed.files)
        lacking = np.flatnonzero(~self.present)
        self.present[lacking] = [(self.folder / name).is_file() for name in self.names(lacking)]
        self.has_content = np.zeros(len(marks), bool)
        self.sizes = np.full(len(marks), -1)  # numbers of those below; -1: not known
        self.all_sizes: list[tuple[int, int]] = []  # width and height
        self.faults: dict[int, str] = {}  # of frames that are there
        self.look(workers)

    def look(self, workers: int) -> None:
        """Looks at the frames that are there."""
        numbers, known = np.flatnonzero(self.present), dict[tuple[int, int], int]()
        found = spread(
            lambda name: probe(self.folder / name), self.names(numbers), len(numbers), workers,
            f"{self.layout.dataset} {self.split}",
        )  # fmt: skip
        for number, its in zip(numbers.tolist(), found, strict=True):
            if its.size:
                self.sizes[number] = known.setdefault(its.size, len(known))
            if its.sha256:
                self.contents[number] = int.from_bytes(its.sha256[:8], "little", signed=True)
                self.has_content[number] = True
            if its.fault:
                self.faults[number] = its.fault
        self.all_sizes = [*known]

    def names(self, numbers: Int64[np.ndarray, " n"]) -> Iterator[str]:
        """The names of frames, whose numbers ascend."""
        wanted = np.zeros((len(self.items), 2), bool)
        wanted.flat[self.firsts[numbers]] = True
        rows = np.flatnonzero(wanted.any(axis=1))
        return compress(named(choose(self.items, rows)), wanted[rows].flat)

    def check(self, name: str, items: int = 0, faults: Iterable[str] = ()) -> Check:
        """A check of this split."""
        return Check(self.layout.dataset, self.split, name, items, list(faults))


class Listed(NamedTuple):
    """The files below a folder: how many, hashes of their names in order, and names that nobody knows.

    Links to nothing count, and may be among the unknown, but are no files.
    """

    total: int
    files: Int64[np.ndarray, " n"]
    extra: list[str]


def list_marks(folder: Path, known: Int64[np.ndarray, " n"]) -> Listed:
    """Compares the files below a folder with hashes of names, which are in order."""
    count, files, extra = 0, array("q"), list[str]()
    for block in in_blocks(list_below(folder)):
        marks = [hash(name) for name, _ in block]
        count += len(block)
        files.extend(compress(marks, (is_file for _, is_file in block)))
        strange = ~among(np.array(marks, np.int64), known)
        # Systems leave files of their own.
        extra += [name for name, _ in compress(block, strange) if not is_hidden(name)]
    return Listed(count, np.sort(np.array(files, np.int64)), sorted(extra))


def named(items: Iterable[Item]) -> Iterator[str]:
    """Input and target of actions, one after the other."""
    return (name for item in items for name in (item.action.image_0, item.action.image_1))


def frame_names(items: Iterable[Item]) -> list[str]:
    """All frames that actions name, each once."""
    return list(dict.fromkeys(named(items)))


def files_below(folder: Path) -> Iterator[str]:
    """The files below a folder, links to nothing too, by names with `/`; no unfinished ones (`.*.part`)."""
    return (name for name, _ in list_below(folder))


def list_below(folder: Path) -> Iterator[tuple[str, bool]]:
    """The same, each with whether it is a file and no link to nothing."""
    root = f"{folder}/"
    for place, _, files, lost in walk(folder):
        below = f"{place}/".removeprefix(root)
        for names, is_file in ((files, True), (lost, False)):
            for name in names:
                if not (name.startswith(".") and fnmatchcase(name, PARTS)):
                    yield f"{below}{name}", is_file


def probe(path: Path) -> Probe:
    """Reads a frame's file and decodes all of it, coarsely."""
    try:
        content = regular(path).read_bytes()
    except UserError as error:
        return Probe(None, b"", str(error).removeprefix(f"{path}: "))
    except OSError as error:
        return Probe(None, b"", f"cannot be read ({reason(error)})")
    sha256 = hashlib.sha256(content).digest()
    try:
        decode(lambda: io.BytesIO(content), path.name, coarse=True)
    except UserError as error:
        return Probe(None, sha256, str(error).removeprefix(f"{path.name}: "))
    cut_off = content.startswith(JPEG_START) and JPEG_END not in content[-TRAILER:]
    return Probe(image_size(io.BytesIO(content)), sha256, "is cut off" if cut_off else None)


def spread(
    look: Callable[[Input], Output], inputs: Iterable[Input], count: int, workers: int, what: str
) -> Iterator[Output]:
    """Applies a function to so many inputs in threads, in order, with a progress bar in a terminal."""
    with ThreadPool(workers) as pool, Progress(total=count, desc=what, unit="file") as bar:
        for block in in_blocks(inputs, AT_ONCE):  # what is handed over waits in memory
            for found in pool.imap(look, block, chunksize=16):
                yield found
                bar.update()
