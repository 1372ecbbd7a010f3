"""EPIC-KITCHENS-100: the input is a moment before an action starts, the target a moment after.

Takes the distributed frames (folders or tar files), or the videos themselves, which are read by time.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import get_args

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
from egogen.prepare.options import add_sharpest, arguments, options
from egogen.prepare.pair_plan import MISSING, ActionPair, AtTime, FrameSource, Moment, PairPlan, Place
from egogen.prepare.run import Preparation, carry_out

log = logging.getLogger(__name__)

# The split of a table by what its name contains.
SPLIT_WORDS: dict[str, Split] = {"train": "train", "val": "val"}
# The distributed frames of these are known to be wrong (README of the annotations).
WRONG_FRAMES = ("P01_109", "P27_103")


@dataclass(frozen=True)
class Offsets:
    """Where the frames of an action are, in seconds; `share` is of its length, used where `after` is None."""

    before: Fraction
    after: Fraction | None
    share: Fraction

    def times(self, action: EpicAction) -> tuple[Fraction, Fraction]:
        """When the input and the target are; not before the video begins."""
        after = self.share * (action.stop - action.start) if self.after is None else self.after
        return max(Fraction(0), action.start - self.before), action.start + after


def main(argv: Sequence[str] | None = None) -> None:
    """Reads the table, then extracts."""
    args = flags().parse_args(argv)
    shared = options(args, args.sharpest)
    split = args.split or guess_split(args.csv)
    offsets = Offsets(args.before, args.after, args.after_fraction)
    actions = list(read_actions(args.csv))
    clips = read_video_info(args.video_info) if args.video_info else {}
    plan = make_plan(actions, split, offsets, args.frames, args.videos)
    settings = {
        "source": "EPIC-KITCHENS frames" if args.frames else "EPIC-KITCHENS videos",
        "annotations": file_hash(args.csv),
        "before": str(offsets.before),
        "after": f"{offsets.share} of the action" if offsets.after is None else str(offsets.after),
        "video_info": file_hash(args.video_info) if args.video_info else None,
        **shared.settings(),
    }
    carry_out(plan, Preparation(Layout(shared.out, "epickitchen"), (split,), settings, shared, clips))


def flags() -> argparse.ArgumentParser:
    """The flags."""
    made = arguments("epic", __doc__)
    made.add_argument(
        "--csv", type=Path, required=True, metavar="FILE", help="EPIC_100_train.csv or _validation.csv"
    )
    where = made.add_mutually_exclusive_group(required=True)
    where.add_argument(
        "--frames", type=Path, metavar="DIR", help="folders P01_11 or tar files P01_11.tar of frames"
    )
    where.add_argument("--videos", type=Path, metavar="DIR", help="P01_11.MP4 ...")
    # Ours: the paper does not say how long before and after (F-DA-02).
    made.add_argument("--before", type=not_negative, default="0.25", metavar="SEC",
                      help="the input is so long before the action starts")  # fmt: skip
    target = made.add_mutually_exclusive_group()
    target.add_argument(
        "--after", type=not_negative, metavar="SEC", help="the target is so long after it starts"
    )
    target.add_argument("--after-fraction", type=not_negative, default="0.6", metavar="F",
                        help="or after this part of it")  # fmt: skip
    made.add_argument("--split", choices=get_args(Split), help="by default as the table's name says")
    made.add_argument(
        "--video-info", type=Path, metavar="FILE", help="EPIC_100_video_info.csv: true sizes and rates"
    )
    add_sharpest(made)
    return made


def not_negative(text: str) -> Fraction:
    """An exact number from 0 on."""
    try:
        number = Fraction(text)
    except (ValueError, ZeroDivisionError):
        number = Fraction(-1)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number, 0 or more")
    return number


def guess_split(path: Path) -> Split:
    """The split of a table by its name.

    Raises:
        UserError: the name does not tell.
    """
    found = [split for word, split in SPLIT_WORDS.items() if word in path.stem.lower()]
    if len(found) == 1:
        return found[0]
    raise UserError(f"{path}: its name does not tell the split; give --split train or --split val")


def make_plan(
    actions: Sequence[EpicAction], split: Split, offsets: Offsets, frames: Path | None, videos: Path | None
) -> PairPlan:
    """Decides on every row of the table."""
    root = frames or videos
    assert root is not None
    found = find_sources(root, (".tar",), VIDEO_ID) if frames else find_sources(root, VIDEOS)
    sources: dict[str, FrameSource] = {
        name: FrameFiles(found[name], float(frames_per_second(name))) if frames else VideoFile(found[name])
        for name in dict.fromkeys(action.video for action in actions)
        if name in found
    }
    plan = PairPlan()
    for action in actions:
        rate, times = frames_per_second(action.video), offsets.times(action)
        numbers = [frame_number(time, rate) for time in times]
        places: Sequence[Place] = numbers if frames else [AtTime(time) for time in times]
        source = sources.get(action.video)
        pair = ActionPair(
            clip=action.video,
            id=action.id,
            split=split,
            text=action.narration,
            reason=fault(action) or (None if source else MISSING),
            source=source,
            moments=(Moment(numbers[0], places[0]), Moment(numbers[1], places[1])),
            files=(found.get(action.video, root / action.video),) * 2,
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
