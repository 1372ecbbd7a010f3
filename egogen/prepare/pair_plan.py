"""The plan of a data set: which two frames of which source make each pair, and which actions make none."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple, Protocol, TypeAlias, TypedDict, runtime_checkable

from PIL import Image

from egogen.journal import Journal
from egogen.layout import Layout, Split, image_name

# Why an action makes no pair. These five say that the source is at fault, not the action.
MISSING = "source missing"
UNREADABLE = "source unreadable"
CUT_OFF = "source cut off before the frame"
DAMAGED = "frame damaged or missing"
HIGH_RANGE = "source of high dynamic range"
BROKEN = (MISSING, UNREADABLE, CUT_OFF, DAMAGED, HIGH_RANGE)
AFTER_END = "frame after the end of the source"
NOT_BEFORE = "input frame not before the target"
DUPLICATE = "duplicate"
BAD_NAME = "id is no file name"

# Of a file or a folder, everywhere.
FILE_NAME = re.compile(r'[^/\\\0:*?"<>|]{1,200}')


class Lost(Exception):  # noqa: N818 - not an error of the program: the run goes on without these frames
    """Frames that cannot be had: a reason, as counted in the report, and a detail for the log."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(detail or reason)
        self.reason = reason


class AtFrame(NamedTuple):
    """The frame of a number, counted from 0 at a rate in Hz."""

    number: int
    fps: Fraction


class AtTime(NamedTuple):
    """The frame on screen so many seconds after the first appeared."""

    seconds: Fraction


# Or the number of a file among numbered or listed ones.
Place: TypeAlias = AtFrame | AtTime | int


class Moment(NamedTuple):
    """A frame that is asked for: the number that names its file, and where the source has it."""

    number: int
    place: Place


class Stamp(NamedTuple):
    """When a frame is shown: in ticks of its video, and in seconds from the first frame. None: not known."""

    pts: int | None
    seconds: float | None


class FrameRow(TypedDict):
    """What was extracted as one frame; its sum is empty until it is written."""

    number: int
    pts: int | None
    seconds: float | None
    sharpness: float
    sha256: str


class PairRow(TypedDict):
    """What was extracted as one pair: a journal's line. Size and rate are the source's."""

    clip: str
    id: str
    width: int
    height: int
    fps: float | None
    frames: list[FrameRow]


class ClipSize(TypedDict, total=False):
    """Height and width of a clip's video in pixels, and its rate in Hz where that is known."""

    height: int
    width: int
    fps: float


class ClipFacts(ClipSize):
    """A clip's metadata; below `actions`, what each action's frames show."""

    actions: dict[str, dict[str, object]]


@runtime_checkable
class SourceFrames(Protocol):
    """Frames of an open source by their position in it."""

    @property
    def fps(self) -> float | None:
        """Frames in a second, where that is known."""

    def find(self, place: Place) -> int:
        """Position of the frame at a place; raises `Lost`."""

    def around(self, position: int, distance: int) -> Sequence[int]:
        """Positions of the frames at most so many frames away, itself among them."""

    def stamp(self, position: int) -> Stamp:
        """When a frame is shown."""

    def images(self, positions: Sequence[int]) -> Iterator[tuple[int, Image.Image | None]]:
        """The frames at ascending positions; None stands for one that is damaged."""


@runtime_checkable
class FrameSource(Protocol):
    """Where the frames of some pairs come from."""

    @property
    def name(self) -> str:
        """A file name of its own."""

    def open(self) -> AbstractContextManager[SourceFrames]:
        """Opens it; raises `Lost`."""


@dataclass(slots=True)
class ActionPair:
    """One action of the annotation file, and what became of it.

    Args:
        clip: its clip's id.
        id: its own, within the clip.
        split: where it belongs; None if nowhere.
        text: its label as annotated.
        reason: why it is left out; None if it is not.
        source: where its frames are, if it has any.
        moments: its input frame and its target frame.
        files: where the input and the target are from.
        facts: for the metadata: verb, object, boxes by name.
        box_size: width and height of the frames that the boxes were drawn in; None: as they are.
        extra: further keys of its entry in the annotation file.
        row: what was extracted.
        scores: what an image model says of its frames.
    """

    clip: str
    id: str
    split: Split | None
    text: str
    reason: str | None = None
    source: FrameSource | None = None
    moments: tuple[Moment, Moment] | None = None
    files: tuple[Path, ...] = ()
    facts: dict[str, object] = field(default_factory=dict)
    box_size: tuple[int, int] | None = None
    extra: dict[str, object] = field(default_factory=dict)
    row: PairRow | None = None
    scores: dict[str, float] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str]:
        """What names the pair."""
        return self.clip, self.id

    @property
    def images(self) -> tuple[str, str]:
        """The extracted frames, relative to the split folder."""
        assert self.row is not None
        first, second = (image_name(self.clip, self.id, frame["number"]) for frame in self.row["frames"])
        return first, second

    def paths(self, layout: Layout) -> list[Path]:
        """The extracted files: input, target and, in the val split, the target for the metrics."""
        assert self.split is not None
        return layout.pair_files(self.split, *self.images)


def pair_journal(path: Path) -> Journal:
    """The journal of one source, or of one kind of scores: a row a pair."""
    return Journal(path, ("clip", "id"), anew="its pair is made anew")


class PairPlan:
    """All actions of a run, in file order. Whoever reads annotations adds each of them once."""

    def __init__(self) -> None:
        self.pairs: list[ActionPair] = []
        self.keys: set[tuple[str, str]] = set()

    def add(self, pair: ActionPair) -> None:
        """Adds an action; one without usable names, or of a name or order that cannot be, is left out."""
        if pair.reason in (None, MISSING):
            pair.reason = self.fault(pair) or pair.reason
        if pair.reason in (None, MISSING):
            self.keys.add(pair.key)
        self.pairs.append(pair)

    def fault(self, pair: ActionPair) -> str | None:
        """What is wrong with an action, whatever file it is from."""
        if not all(part not in (".", "..") and FILE_NAME.fullmatch(part) for part in pair.key):
            return BAD_NAME
        if pair.key in self.keys:
            return DUPLICATE
        if pair.moments is not None and pair.moments[0].number >= pair.moments[1].number:
            return NOT_BEFORE
        return None

    def kept(self) -> list[ActionPair]:
        """The pairs that are not left out."""
        return [pair for pair in self.pairs if pair.reason is None]

    def limit(self, count: int | None) -> list[ActionPair]:
        """Forgets everything behind the first so many kept pairs, and returns what of it was kept."""
        if count is None:
            return []
        seen = 0
        for index, pair in enumerate(self.pairs):
            seen += pair.reason is None
            if seen > count:
                cut = [pair for pair in self.pairs[index:] if pair.reason is None]
                del self.pairs[index:]
                return cut
        return []
