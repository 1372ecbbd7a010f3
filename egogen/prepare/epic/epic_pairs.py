"""EPIC-KITCHENS-100: the input is a moment before an action starts, the target a moment after.

Takes the distributed frames (folders or tar files), or the videos themselves, which are read by time.
"""

from __future__ import annotations

import logging
from argparse import ArgumentTypeError
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import get_args

from egogen.cli import flag
from egogen.errors import UserError
from egogen.layout import Layout, Split
from egogen.manifest import file_hash
from egogen.prepare.epic.epic_file import (
    VIDEO_ID,
    EpicAction,
    frame_number,
    frames_per_second,
    read_actions,
    read_video_info,
)
from egogen.prepare.frames.find import VIDEOS, find_sources
from egogen.prepare.frames.stills import FrameFiles
from egogen.prepare.frames.video import VideoFile
from egogen.prepare.options import NeighbourOptions, read
from egogen.prepare.pair_plan import MISSING, ActionPair, AtTime, FrameSource, Moment, PairPlan, Place
from egogen.prepare.run import Preparation, carry_out

log = logging.getLogger(__name__)

# The split of a table by what its name contains.
SPLIT_WORDS: dict[str, Split] = {"train": "train", "val": "val"}
# The distributed frames of these are known to be wrong (README of the annotations).
WRONG_FRAMES = ("P01_109", "P27_103")


def not_negative(text: str) -> Fraction:
    """An exact number from 0 on."""
    try:
        number = Fraction(text)
    except (ValueError, ZeroDivisionError):
        number = Fraction(-1)
    if number < 0:
        raise ArgumentTypeError(f"{text!r}: expected a number, 0 or more")
    return number


@dataclass(frozen=True)
class EpicOptions(NeighbourOptions):
    """Which table and frames, and where in an action its frames are."""

    csv: Path = flag("EPIC_100_train.csv or _validation.csv", type=Path, required=True, metavar="FILE")
    frames: Path | None = flag(
        "folders P01_11 or tar files P01_11.tar of frames", type=Path, metavar="DIR", either=True
    )
    videos: Path | None = flag("P01_11.MP4 ...", type=Path, metavar="DIR", either=True)
    # Ours: the paper does not say how long before and after (F-DA-02).
    before: Fraction = flag(
        "the input is so long before the action starts", type=not_negative, default="0.25", metavar="SEC"
    )
    after: Fraction | None = flag(
        "the target is so long after it starts", type=not_negative, metavar="SEC", either="target"
    )
    after_fraction: Fraction = flag(
        "or after this part of it", type=not_negative, default="0.6", metavar="F", either="target"
    )
    split: Split | None = flag("by default as the table's name says", choices=get_args(Split))
    video_info: Path | None = flag("EPIC_100_video_info.csv: true sizes and rates", type=Path, metavar="FILE")

    def times(self, action: EpicAction) -> tuple[Fraction, Fraction]:
        """When the input and the target are, in seconds; not before the video begins."""
        share = self.after_fraction * (action.stop - action.start)
        after = share if self.after is None else self.after
        return max(Fraction(0), action.start - self.before), action.start + after


def main(argv: Sequence[str] | None = None) -> None:
    """Reads the table, then extracts."""
    options = read(EpicOptions, argv, "epic", __doc__)
    split = options.split or guess_split(options.csv)
    actions = list(read_actions(options.csv))
    clips = read_video_info(options.video_info) if options.video_info else {}
    plan = make_plan(actions, split, options)
    share = f"{options.after_fraction} of the action"
    settings = {
        "source": "EPIC-KITCHENS frames" if options.frames else "EPIC-KITCHENS videos",
        "annotations": file_hash(options.csv),
        "before": str(options.before),
        "after": share if options.after is None else str(options.after),
        "video_info": file_hash(options.video_info) if options.video_info else None,
        **options.settings(),
    }
    carry_out(plan, Preparation(Layout(options.out, "epickitchen"), (split,), settings, options, clips))


def guess_split(path: Path) -> Split:
    """The split of a table by its name; raises `UserError` if the name does not tell."""
    found = [split for word, split in SPLIT_WORDS.items() if word in path.stem.lower()]
    if len(found) == 1:
        return found[0]
    raise UserError(f"{path}: its name does not tell the split; give --split train or --split val")


def make_plan(actions: Sequence[EpicAction], split: Split, options: EpicOptions) -> PairPlan:
    """Decides on every row of the table."""
    frames, root = options.frames, options.frames or options.videos
    assert root is not None
    found = find_sources(root, (".tar",), VIDEO_ID) if frames else find_sources(root, VIDEOS)
    sources: dict[str, FrameSource] = {
        name: FrameFiles(found[name], float(frames_per_second(name))) if frames else VideoFile(found[name])
        for name in dict.fromkeys(action.video for action in actions)
        if name in found
    }
    plan = PairPlan()
    for action in actions:
        video, times = action.video, options.times(action)
        numbers = [frame_number(time, frames_per_second(video)) for time in times]
        places: Sequence[Place] = numbers if frames else [AtTime(time) for time in times]
        source = sources.get(video)
        pair = ActionPair(
            clip=video,
            id=action.id,
            split=split,
            text=action.narration,
            reason=fault(action) or (None if source else MISSING),
            source=source,
            moments=(Moment(numbers[0], places[0]), Moment(numbers[1], places[1])),
            files=(found.get(video, root / video),) * 2,
            facts={"verb": action.verb, "object": action.noun},
        )
        plan.add(pair)
    if frames and (wrong := sorted(set(WRONG_FRAMES) & set(sources))):
        log.warning("%s: their distributed frames are known to be wrong; use --videos", ", ".join(wrong))
    return plan


def fault(action: EpicAction) -> str | None:
    """Why a row makes no pair; None if it does."""
    if not action.narration.strip():
        return "no narration"
    return "no duration" if action.stop <= action.start else None
