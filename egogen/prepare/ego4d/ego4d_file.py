"""Ego4D's hand-object annotations, `fho_main.json` (v2) or `fho.json` (v1): what pairs need of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import ijson
from pydantic import ValidationError

from egogen.annotations import JsonObject
from egogen.boxes import Box
from egogen.errors import UserError, reason, shorten
from egogen.files import named_errors, regular
from egogen.unfetched import check_stands

BOM = b"\xef\xbb\xbf"  # of UTF-8
FILES = ("fho_main.json", "fho.json")
# Their top-level keys of the videos: a list in v2, in v1 an object by uid.
LISTS = ("videos", "video_data")
# Fields of an action that are kept as they are, under the names of v2.
FIELDS = (
    "uid", "narration_annotation_uid", "narration_text", "start_sec", "end_sec", "is_valid_action",
    "is_rejected", "is_invalid_annotation", "stage",
)  # fmt: skip
# Box names as Ego4D has them, and as the metadata call them.
BOXES = {"left_hand": "left_hand_box", "right_hand": "right_hand_box", "object_of_change": "object_box"}
# Of canonical videos and clips.
FPS, FASTEST = 30, 10_000


class Narrated(NamedTuple):
    """One narrated action.

    Args:
        fields: by the names in `FIELDS`; those that the file lacks are absent.
        has_frames: whether any critical frames are given.
        numbers: of the input and the target frame; None where there is none.
        facts: verb, object and boxes, for the metadata.
    """

    fields: JsonObject
    has_frames: bool
    numbers: tuple[int | None, int | None]
    facts: dict[str, object]


class Interval(NamedTuple):
    """A stretch of a video with its actions; a clip of its own."""

    clip_uid: str | None
    redacted: bool
    actions: list[Narrated]


class AnnotatedVideo(NamedTuple):
    """A video; `size` is that of the frames that boxes were drawn in."""

    uid: str
    fps: Fraction
    size: tuple[int, int] | None
    intervals: list[Interval]


def annotation_file(folder: Path) -> Path:
    """The master file of a folder of annotations; raises `UserError` if there is none."""
    for name in FILES:
        if (folder / name).exists():
            return folder / name
    raise UserError(f"{folder}: holds neither {FILES[0]} nor {FILES[1]}; expected Ego4D's v2/annotations")


def read_videos(path: Path, names: tuple[str, str], clips: bool) -> Iterator[AnnotatedVideo]:
    """Reads a master file: of its actions the named frames, counted in the clips or in the full videos.

    Raises:
        UserError: it is not such a file.
    """
    with named_errors(path):
        for index, (key, video) in enumerate(raw_videos(path)):
            try:
                found = as_video(key, video, names, clips)
            except (AttributeError, KeyError, TypeError, ValueError, ArithmeticError) as error:
                raise UserError(
                    f"{path}: video {index} is not as in {FILES[0]} or {FILES[1]} ({error!r})"
                ) from None
            yield found


def raw_videos(path: Path) -> Iterator[tuple[str | None, JsonObject]]:
    """The videos as the file has them, one in memory at a time; in v1, with their uids.

    Raises:
        UserError: the file is not JSON, or holds no such list.
    """
    keys = []
    try:
        with regular(path).open("rb") as file:
            start = len(BOM) if file.read(len(BOM)) == BOM else 0
            file.seek(start)
            # Without `use_float` a number of over 4,300 digits crashes ijson 3.6, and Python with it.
            events = ijson.parse(file, use_float=True)
            for key in (value for prefix, event, value in events if (prefix, event) == ("", "map_key")):
                keys.append(key)
                if key in LISTS:
                    break
            else:
                found = ", ".join(keys) or "none"
                raise UserError(f"{path}: found the keys {found}, expected {' (v2) or '.join(LISTS)} (v1)")
            kind = next(events)[1]
            file.seek(start)
            if kind == "start_array":
                yield from ((None, video) for video in ijson.items(file, f"{key}.item", use_float=True))
            elif kind == "start_map":
                yield from ijson.kvitems(file, key, use_float=True)
            else:
                raise UserError(f"{path}: {key} is {kind}, expected a list (v2) or an object (v1)")
    except ijson.JSONError as error:
        check_stands(path)
        raise UserError(f"{path}: not valid JSON ({reason(error)}); is it cut off?") from None


def as_video(key: str | None, found: JsonObject, names: tuple[str, str], clips: bool) -> AnnotatedVideo:
    """A video with no more of its actions than is used; in v1 its key is its uid."""
    known = found.get("video_metadata") or {}
    return AnnotatedVideo(
        key or str(found["video_uid"]),
        rate_of(known.get("fps") or FPS),
        (known["width"], known["height"]) if known.get("width") and known.get("height") else None,
        [as_interval(interval, names, clips) for interval in found["annotated_intervals"] or []],
    )


def rate_of(fps: object) -> Fraction:
    """Frames a second, exact; not of a text, whose exponent could be of any size."""
    if not isinstance(fps, int | float) or not 0 < fps < FASTEST:
        raise ValueError(f"fps is {shorten(fps)}")
    return Fraction(fps).limit_denominator(1001)


def as_interval(found: JsonObject, names: tuple[str, str], clips: bool) -> Interval:
    """An interval with no more of its actions than is used."""
    start = whole(found.get("clip_parent_start_frame", found.get("parent_start_frame")))
    actions = []
    for action in found.get("narrated_actions") or []:
        fields = {
            name: either(action, name) for name in FIELDS if name in action or f"parent_{name}" in action
        }
        first, second = (
            clip_number(action, name, start) if clips else video_number(action, name) for name in names
        )
        given = action.get("critical_frames") or action.get("clip_critical_frames")
        has_frames = bool(given) or (first, second) != (None, None)
        actions.append(Narrated(fields, has_frames, (first, second), facts(action, names)))
    return Interval(found.get("clip_uid"), bool(found.get("redacted")), actions)


def either(fields: JsonObject, name: str) -> object:
    """A field that counts in the full video: plain in v2, in older files with `parent_` before its name."""
    found = fields.get(name)
    return fields.get(f"parent_{name}") if found is None else found


def video_number(action: JsonObject, name: str) -> int | None:
    """A critical frame's number in the full video."""
    found = either(action.get("critical_frames") or {}, name)
    return whole(either(action, name) if found is None else found)


def clip_number(action: JsonObject, name: str, start: int | None) -> int | None:
    """A critical frame's number in the clip; files without such are counted from where the clip starts."""
    if "clip_critical_frames" in action:
        return whole((action["clip_critical_frames"] or {}).get(name))
    if f"clip_{name}" in action:
        return whole(action[f"clip_{name}"])
    number = video_number(action, name)
    return None if number is None or start is None else number - start


def whole(value: object) -> int | None:
    """A frame number, or None for what is none."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and float(value).is_integer()
    return int(value) if number else None  # type: ignore[call-overload]  # it is a number


def facts(action: JsonObject, names: tuple[str, str]) -> dict[str, object]:
    """Verb, object, and the boxes of hands and object in both frames; of several of a kind the first."""
    found: dict[str, object] = {}
    if verb := action.get("structured_verb") or action.get("freeform_verb"):
        found["verb"] = verb
    for slot, name in enumerate(names):
        drawn = (frame for frame in action.get("frames") or [] if frame.get("frame_type") == name)
        for box in chain.from_iterable(frame.get("boxes") or [] for frame in drawn):
            kind = BOXES.get(box.get("object_type") or "")
            if kind is None:
                continue
            with suppress(ValidationError):  # without all of its numbers, or turned inside out
                found.setdefault(f"{kind}_{slot}", Box.model_validate(box.get("bbox")).model_dump())
                if kind == "object_box" and box.get("structured_noun"):
                    found.setdefault("object", box["structured_noun"])
    return found
