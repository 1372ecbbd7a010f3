"""Looks at every frame of a split once: is it whole, how large is it, what are its bytes?"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import NamedTuple, TypeVar

from egogen.annotations import Item
from egogen.errors import UserError, reason
from egogen.files import regular
from egogen.frames import JPEG_END, decode, image_size
from egogen.layout import Layout, Split, normal
from egogen.progress import Progress
from egogen.unfinished import PARTS
from egogen.validate.check_report import Check
from egogen.walks import is_hidden, walk

JPEG_START = b"\xff\xd8"
# Cameras may add some bytes after the end of the picture.
TRAILER = 1024
Input = TypeVar("Input")
Output = TypeVar("Output")


class Probe(NamedTuple):
    """What a frame's file is: width and height in pixels, SHA-256 of its bytes, or what is wrong with it."""

    size: tuple[int, int] | None
    sha256: bytes
    fault: str | None


class SplitFrames:
    """A split: its actions, the files of its folder, and the frames among them that actions name.

    Args:
        layout: the data set.
        split: train or val.
        items: the actions.
        workers: threads that look at frames.
    """

    def __init__(self, layout: Layout, split: Split, items: Sequence[Item], workers: int) -> None:
        self.layout, self.split, self.items = layout, split, items
        self.folder = layout.frames(split)
        self.named = frame_names(items)
        present = self.compare()
        found = spread(lambda name: probe(self.folder / name), present, workers, f"{layout.dataset} {split}")
        sizes: dict[object, tuple[int, int] | None] = {}  # each once in memory
        probes = (its._replace(size=sizes.setdefault(its.size, its.size)) for its in found)
        self.probes: dict[str, Probe] = dict(zip(present, probes, strict=True))

    def compare(self) -> list[str]:
        """The named frames that are there; counts the folder's files, and keeps those that nobody names."""
        found = dict(list_below(self.folder))
        self.count = len(found)
        present = [name for name in self.named if found.get(name) or (self.folder / name).is_file()]
        for name in self.named:
            found.pop(normal(name), None)
        self.extra = sorted(name for name in found if not is_hidden(name))  # systems leave files of their own
        return present

    def check(self, name: str, items: int = 0, faults: Iterable[str] = ()) -> Check:
        """A check of this split."""
        return Check(self.layout.dataset, self.split, name, items, list(faults))

    def content(self, name: str) -> bytes | str:
        """What tells a frame from others: the sum of its bytes or, where there are none, its name."""
        found = self.probes.get(name)
        return (found.sha256 if found else b"") or name


def frame_names(items: Iterable[Item]) -> list[str]:
    """All frames that actions name, each once."""
    return list(dict.fromkeys(name for item in items for name in (item.action.image_0, item.action.image_1)))


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
    look: Callable[[Input], Output], inputs: Sequence[Input], workers: int, what: str
) -> Iterator[Output]:
    """Applies a function in threads, in order, with a progress bar in a terminal."""
    with ThreadPool(workers) as pool:
        results = pool.imap(look, inputs, chunksize=16)
        yield from Progress(results, total=len(inputs), desc=what, unit="file")
