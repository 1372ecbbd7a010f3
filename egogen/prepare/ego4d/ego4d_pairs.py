"""Ego4D: the input is a frame before an action, the target the frame in which the object begins to change.

Needs `fho_main.json` and the train and val files of one benchmark, as the ego4d command fetches them, and the
clips or the full videos.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain, count
from pathlib import Path
from typing import TypeAlias

from egogen.annotations import JsonObject
from egogen.errors import UserError
from egogen.files import no_garbage, read_json
from egogen.layout import Layout, Split
from egogen.manifest import file_hash
from egogen.prepare.ego4d.ego4d_file import (
    AnnotatedVideo,
    Interval,
    Narrated,
    annotation_file,
    read_videos,
)
from egogen.prepare.frames.find import VIDEOS, find_sources
from egogen.prepare.frames.video import VideoFile
from egogen.prepare.options import Ego4DOptions
from egogen.prepare.pair_plan import DUPLICATE, MISSING, ActionPair, AtFrame, Moment, PairPlan
from egogen.prepare.run import Preparation, carry_out

log = logging.getLogger(__name__)

Splits: TypeAlias = dict[str, Split | None]
SPLITS: tuple[Split, ...] = ("train", "val")
# The wearer of the camera acts: "#C C cuts the carrot". "#O" is somebody else.
WEARER, UNSURE = "#C", "#unsure"
# Loaders of the benchmarks leave out actions annotated in a shorter window, in seconds (F-DA-05).
USUAL_WINDOW = 8.0
ROUNDING = 0.001
# (narration, start, end) of videos shorter than annotated (EGO4D/hands-and-objects, cnn-lstm/dataset.py).
CORRUPT = {
    ("a4b0cdeb-7191-400f-9169-abc13ccfd026", 3520.366666666667, 3528.366666666667),
    ("a4b0cdeb-7191-400f-9169-abc13ccfd026", 3523.4333333333334, 3531.4333333333334),
    ("757bd945-7b78-4636-b9b1-45a44822e829", 720.7333333333333, 728.7333333333333),
    ("a4b0cdeb-7191-400f-9169-abc13ccfd026", 3521.4, 3529.4),
    ("a4b0cdeb-7191-400f-9169-abc13ccfd026", 3519.5, 3527.5),
    ("856e679d-1f17-4d6f-ab05-2826fb1b6f4c", 400.43333333333334, 408.43333333333334),
}

# Reasons to leave an action out, as the annotators' flags and the narration tell them.
CHECKS: Sequence[tuple[str, Callable[[Interval, JsonObject], bool]]] = (
    ("redacted", lambda interval, _: interval.redacted),
    ("rejected", lambda _, fields: bool(fields.get("is_rejected"))),
    ("invalid annotation", lambda _, fields: bool(fields.get("is_invalid_annotation"))),
    ("not a valid action", lambda _, fields: fields.get("is_valid_action") is False),
    ("no stage", lambda _, fields: "stage" in fields and fields["stage"] is None),
    ("no narration", lambda _, fields: not text_of(fields).strip()),
    ("unsure narration", lambda _, fields: UNSURE in text_of(fields).lower()),
    ("not the camera wearer", lambda _, fields: not text_of(fields).lstrip().upper().startswith(WEARER)),
    ("known to be corrupt", lambda _, fields: identity(fields) in CORRUPT),
)


def prepare(options: Ego4DOptions) -> None:
    """Reads the annotations, then extracts."""
    annotations = annotation_file(options.annotations)
    split_files = {split: options.annotations / f"{options.split_from}_{split}.json" for split in SPLITS}
    splits = read_splits(split_files)
    with no_garbage():
        videos = read_videos(annotations, (options.input, options.target), options.clips is not None)
        plan = make_plan(videos, splits, options)
    settings = {
        "source": "Ego4D clips" if options.clips else "Ego4D videos",
        "annotations": file_hash(annotations),
        **{f"{split}_clips": file_hash(path) for split, path in split_files.items()},
        **{name: getattr(options, name) for name in ("input", "target", "min_window")},
        **options.settings(),
    }
    carry_out(plan, Preparation(Layout(options.out, "ego4d"), SPLITS, settings, options))


def read_splits(files: Mapping[Split, Path]) -> Splits:
    """The split of each clip uid; None for a clip that is in both.

    Raises:
        UserError: a file is missing or is no such file.
    """
    found: dict[str, Split | None] = {}
    for split, path in files.items():
        raw = read_json(path)
        clips = raw.get("clips") if isinstance(raw, dict) else raw
        if not isinstance(clips, list) or not all(isinstance(clip, dict) for clip in clips):
            raise UserError(f"{path}: expected an object with a list of 'clips'")
        for uid in {clip.get("clip_uid") for clip in clips} - {None}:
            found[uid] = None if uid in found else split
    return found


def make_plan(videos: Iterable[AnnotatedVideo], splits: Splits, options: Ego4DOptions) -> PairPlan:
    """Decides on every action of the annotation file."""
    root = options.clips or options.videos
    assert root is not None
    sources = {name: VideoFile(path) for name, path in find_sources(root, VIDEOS).items()}
    plan, seen, short = PairPlan(), set[object](), 0
    for video in videos:
        for interval in video.intervals:
            clip = interval.clip_uid or video.uid
            file = interval.clip_uid if options.clips else video.uid
            source = sources.get(file or "")
            for index, action in enumerate(interval.actions):
                reason = fault(interval, action, splits, options) or duplicate(video, action.fields, seen)
                names = chain((action.fields.get("uid"), unique_id(action.fields)), count(index))
                ids = (str(name) for name in names if name not in (None, ""))
                pair = ActionPair(
                    clip=clip,
                    id=next(name for name in ids if (clip, name) not in plan.keys),
                    split=splits.get(interval.clip_uid or ""),
                    text=text_of(action.fields),
                    reason=reason or (None if source else MISSING),
                    source=source,
                    moments=moments(video, action),
                    files=(root / f"{file}.mp4" if source is None else source.path,) * 2,
                    facts=action.facts,
                    box_size=video.size,
                )
                plan.add(pair)
                short += pair.reason is None and window(action.fields) < USUAL_WINDOW - ROUNDING
    if short:
        log.info(
            "%d pairs are of windows shorter than %g s; --min-window leaves them out", short, USUAL_WINDOW
        )
    return plan


def moments(video: AnnotatedVideo, action: Narrated) -> tuple[Moment, Moment] | None:
    """The input frame and the target frame, if both are known."""
    first, second = action.numbers
    if first is None or second is None:
        return None
    return Moment(first, AtFrame(first, video.fps)), Moment(second, AtFrame(second, video.fps))


def fault(interval: Interval, action: Narrated, splits: Splits, options: Ego4DOptions) -> str | None:
    """Why an action makes no pair; None if it does. Of several reasons the first in this order."""
    if interval.clip_uid is None:
        return "no clip uid"
    if splits.get(interval.clip_uid) is None:
        return "in both splits" if interval.clip_uid in splits else "in no split"
    for reason, holds in CHECKS:
        if holds(interval, action.fields):
            return reason
    if window(action.fields) < options.min_window - ROUNDING:
        return f"window shorter than {options.min_window:g} s"
    if not action.has_frames:
        return "no critical frames"
    for name, number in zip((options.input, options.target), action.numbers, strict=True):
        if number is None:
            return f"no {name}" if name.endswith("_frame") else f"no {name} frame"
        if number < 0:
            return "frame before the start of the source"
    return None


def duplicate(video: AnnotatedVideo, fields: JsonObject, seen: set[object]) -> str | None:
    """Whether the same narration was annotated in the same window before."""
    narration, start, end = identity(fields)
    known = video.uid, narration or fields.get("uid"), start, end
    if known in seen and known[1] is not None:
        return DUPLICATE
    seen.add(known)
    return None


def identity(fields: JsonObject) -> tuple[object, object, object]:
    """What tells actions apart: narration, start, end."""
    return fields.get("narration_annotation_uid"), fields.get("start_sec"), fields.get("end_sec")


def unique_id(fields: JsonObject) -> str | None:
    """The name that the benchmarks give an action."""
    known = identity(fields)
    return None if None in known else "-".join(map(str, known)).replace(".", "_")


def text_of(fields: JsonObject) -> str:
    """The narration as it is."""
    return str(fields.get("narration_text") or "")


def window(fields: JsonObject) -> float:
    """Seconds of the window that an action was annotated in; without end where that is not known."""
    start, end = fields.get("start_sec"), fields.get("end_sec")
    return float("inf") if start is None or end is None else float(end) - float(start)
