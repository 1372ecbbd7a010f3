"""What is written about pairs: the journal's lines and the clips' metadata."""

from __future__ import annotations

from typing import TypedDict


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
