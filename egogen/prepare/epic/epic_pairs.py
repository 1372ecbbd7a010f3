"""EPIC-KITCHENS-100: the input is a moment before an action starts, the target a moment after.

Takes the distributed frames (folders or tar files), or the videos themselves, which are read by time.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

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
from egogen.prepare.options import EpicOptions
from egogen.prepare.pair_plan import MISSING, ActionPair, AtTime, FrameSource, Moment, PairPlan, Place
from egogen.prepare.run import Preparation, carry_out

log = logging.getLogger(__name__)

# The split of a table by what its name contains.
SPLIT_WORDS: dict[str, Split] = {"train": "train", "val": "val"}
# The distributed frames of these are known to be wrong (README of the annotations).
WRONG_FRAMES = ("P01_109", "P27_103")


def prepare(options: EpicOptions) -> None:
    """Reads the table, then extracts."""
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


def times(action: EpicAction, options: EpicOptions) -> tuple[Fraction, Fraction]:
    """When the input and the target are, in seconds; not before the video begins."""
    share = options.after_fraction * (action.stop - action.start)
    after = share if options.after is None else options.after
    return max(Fraction(0), action.start - options.before), action.start + after


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
        video, seconds = action.video, times(action, options)
        numbers = [frame_number(time, frames_per_second(video)) for time in seconds]
        places: Sequence[Place] = numbers if frames else [AtTime(time) for time in seconds]
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
