"""The items to look at: source, target and what each system made of them, with their texts and values."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from egogen.annotations import Annotations, ClipMetadata, Item, read_metadata
from egogen.boxes import read_boxes
from egogen.errors import UserError
from egogen.layout import metric_target_path
from egogen.packed_frames import FrameFile
from ldm.metrics.frames.images import check_image
from ldm.report.report_options import ReportOptions
from ldm.report.results_table import Column, columns_of
from ldm.report.runs import Run

MIME = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp"}


class Outline(NamedTuple):
    """A box on a picture, in percent of its sides."""

    name: str
    left: float
    top: float
    width: float
    height: float


class Figure(NamedTuple):
    """A picture with a caption and a few values: (metric title, text, good or bad where that is known)."""

    caption: str
    uri: str
    width: int
    height: int
    values: Sequence[tuple[str, str, str]] = ()
    outlines: Sequence[Outline] = ()


class Card(NamedTuple):
    """One item."""

    title: str
    label: str
    description: str | None
    figures: Sequence[Figure]


@dataclass(frozen=True)
class Album:
    """Where the gallery's pictures and texts come from."""

    annotations: Annotations
    frames: Path  # the split folder that their image paths are relative to
    runs: Sequence[Run]
    metadata: Mapping[str, ClipMetadata]  # by clip id; boxes are outlined on the targets of clips with any
    llava_key: str  # of the description

    def cards(self, limit: int) -> list[Card]:
        """The items of the gallery, evenly spread over the annotation file.

        Raises:
            UserError: a picture is missing or broken; the limit is below 1.
        """
        if limit < 1:
            raise UserError(f"--max-items {limit}: expected at least 1")
        items = self.annotations.items
        count = min(limit, len(items))
        return [self.card(items[index * len(items) // count]) for index in range(count)]

    def extremes(self) -> list[tuple[Column, list[tuple[str, Card]]]]:
        """For each metric that items have values of, the first run's best, median and worst item."""
        items = {
            metric_target_path(Path(), item.action.image_1).as_posix(): item for item in self.annotations
        }
        shown = []
        for column in columns_of(run.details for run in self.runs):
            values = self.runs[0].values.get(column.name, {})
            frames = sorted(
                values, key=lambda frame: (values[frame], frame), reverse=column.better == "higher"
            )
            if frames and not self.runs[0].details["metrics"][column.name]["binary"]:
                picked = {"best": frames[0], "median": frames[len(frames) // 2], "worst": frames[-1]}
                shown.append((column, [(place, self.card(items[frame])) for place, frame in picked.items()]))
        return shown

    def card(self, item: Item) -> Card:
        """One item of the gallery."""
        action, shown = item.action, columns_of(run.details for run in self.runs)
        frame = metric_target_path(Path(), action.image_1).as_posix()
        target = picture("Target", self.frames / action.image_1)
        if item.clip in self.metadata:
            where = f"metadata, clip {item.clip!r}"
            target = target._replace(outlines=outlines(self.metadata[item.clip], item.id, where))
        made = [
            picture(run.name, run.image(frame))._replace(values=values(run, frame, shown))
            for run in self.runs
        ]
        given = [picture("Source", self.frames / action.image_0), target]
        return Card(f"{item.clip} / {item.id}", action.action, action.text(self.llava_key), [*given, *made])


def outlines(clip: ClipMetadata, action_id: str, where: str) -> list[Outline]:
    """The boxes of an action's target frame, cut at its edges; a `UserError` names one that is none."""
    found = []
    for name, box in read_boxes(clip.facts(action_id), 1, where).items():
        left, top, right, bottom = (100 * share for share in box.shares(clip.width, clip.height))
        found.append(Outline(name, left, top, right - left, bottom - top))
    return found


def values(run: Run, frame: str, metrics: Sequence[Column]) -> list[tuple[str, str, str]]:
    """A generated frame's values; a yes-or-no metric reads as such."""
    shown = []
    for metric in metrics:
        value = run.values.get(metric.name, {}).get(frame)
        if value is None:
            continue
        if run.details["metrics"][metric.name]["binary"]:
            shown.append((metric.title, "yes" if value else "no", "good" if value else "bad"))
        else:
            shown.append((metric.title, f"{metric.show(value)} {metric.unit}".strip(), ""))
    return shown


def picture(caption: str, path: FrameFile) -> Figure:
    """A picture as it lies on disk, inlined.

    Raises:
        UserError: it is missing, broken or of a format that browsers do not show.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such picture ({caption}); expected as the annotation file says")
    header = check_image(path)
    if header.format not in MIME:
        raise UserError(f"{path}: a {header.format} file; allowed are {', '.join(MIME)}")
    data = base64.b64encode(path.read_bytes()).decode()
    uri = f"data:{MIME[header.format]};base64,{data}"
    return Figure(caption, uri, header.size.width, header.size.height)


def open_album(options: ReportOptions, runs: Sequence[Run]) -> Album | None:
    """Where the flags say that the pictures come from; None where they say nothing."""
    if options.annotations is None or options.frames is None:
        return None
    metadata = {} if options.metadata is None else read_metadata(options.metadata)
    return Album(Annotations.read(options.annotations), options.frames, runs, metadata, options.llava_key)
