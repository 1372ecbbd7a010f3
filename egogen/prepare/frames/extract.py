"""Extracts the frames of one source's pairs: finds, chooses the sharpest, scales, writes. One process."""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from egogen.files import atomic_open
from egogen.frames import encode
from egogen.layout import Layout
from egogen.prepare.frames.look import Look
from egogen.prepare.pair_plan import (
    DAMAGED,
    NOT_BEFORE,
    ActionPair,
    FrameRow,
    FrameSource,
    Lost,
    PairRow,
    SourceFrames,
    Stamp,
    pair_journal,
)

log = logging.getLogger(__name__)

SHAPES = "frames of two shapes"


class SourceWork(NamedTuple):
    """Pairs of one source that are not extracted yet."""

    source: FrameSource
    pairs: list[ActionPair]
    journal: Path


class Shot(NamedTuple):
    """A frame as it would be written, with its position and size in its source."""

    position: int
    image: Image.Image
    sharpness: float
    width: int
    height: int


class Search:
    """The frames of one pair while its source is read; the sharpest may be `window` frames away.

    Raises:
        Lost: the source has no frame at one of the places.
    """

    def __init__(self, pair: ActionPair, frames: SourceFrames, window: int) -> None:
        assert pair.moments is not None
        self.pair = pair
        self.asked = [frames.find(moment.place) for moment in pair.moments]
        self.near = [frames.around(position, window) for position in self.asked]
        self.left = sum(map(len, self.near))
        self.best: list[Shot | None] = [None, None]

    def offer(self, slot: int, shot: Shot | None) -> bool:
        """Takes a frame if it is the best so far; says whether it was the last one to come."""
        self.left -= 1
        best = self.best[slot]
        if shot is not None and (best is None or self.rank(slot, shot) > self.rank(slot, best)):
            self.best[slot] = shot
        return self.left == 0

    def rank(self, slot: int, shot: Shot) -> tuple[float, int]:
        """The sharper the better; of equally sharp frames the nearest."""
        return shot.sharpness, -abs(shot.position - self.asked[slot])

    def result(self, frames: SourceFrames) -> tuple[PairRow, list[Image.Image]]:
        """The journal's line and the two pictures; raises `Lost` if the frames make no pair."""
        assert self.pair.moments is not None
        first, second = self.best
        if first is None or second is None:
            raise Lost(DAMAGED)
        numbers = [
            moment.number + shot.position - asked
            for moment, shot, asked in zip(self.pair.moments, (first, second), self.asked, strict=True)
        ]
        if first.position >= second.position or numbers[0] >= numbers[1]:
            raise Lost(NOT_BEFORE)
        if first.image.size != second.image.size:
            raise Lost(SHAPES)
        row: PairRow = {
            "clip": self.pair.clip,
            "id": self.pair.id,
            "width": first.width,
            "height": first.height,
            "fps": frames.fps,
            "frames": [
                frame_row(number, shot, frames.stamp(shot.position))
                for number, shot in zip(numbers, (first, second), strict=True)
            ],
        }
        return row, [first.image, second.image]


def frame_row(number: int, shot: Shot, stamp: Stamp) -> FrameRow:
    """What the journal says of a frame."""
    sharp = round(shot.sharpness, 2)
    return {"number": number, "pts": stamp.pts, "seconds": stamp.seconds, "sharpness": sharp, "sha256": ""}


def extract(work: SourceWork, layout: Layout, look: Look) -> None:
    """Writes the frames of all pairs that can be had, and a journal line for every pair."""
    journal = pair_journal(work.journal)
    try:
        with work.source.open() as frames:
            for row in rows(frames, work.pairs, layout, look):
                journal.add([dict(row)])
    except Lost as lost:
        log.warning("%s", lost)
        journal.add([lost_row(pair, lost) for pair in work.pairs])


def rows(
    frames: SourceFrames, pairs: Sequence[ActionPair], layout: Layout, look: Look
) -> Iterator[Mapping[str, object]]:
    """Reads the source once and yields each pair's journal line when its frames are written."""
    wishes: dict[int, list[tuple[Search, int]]] = defaultdict(list)
    for pair in pairs:
        try:
            search = Search(pair, frames, look.sharpest)
        except Lost as lost:
            yield lost_row(pair, lost)
            continue
        for slot, near in enumerate(search.near):
            for position in near:
                wishes[position].append((search, slot))
    for position, image in frames.images(sorted(wishes)):
        shot = None if image is None else scaled(position, image, look.size)
        for search, slot in wishes.pop(position):
            if search.offer(slot, shot):
                try:
                    row, pictures = search.result(frames)
                except Lost as lost:
                    yield lost_row(search.pair, lost)
                else:
                    write(row, pictures, search.pair, layout, look.quality)
                    yield row


def scaled(position: int, image: Image.Image, height: int) -> Shot:
    """A picture at the height of the data set, in its own aspect (Lanczos, F-DA-06)."""
    width = max(1, round(image.width * height / image.height))
    small = image.resize((width, height), Image.Resampling.LANCZOS)
    return Shot(position, small, sharpness(small), image.width, image.height)


def sharpness(image: Image.Image) -> float:
    """Variance of the Laplacian of the grey image, in squared grey levels; 0 where nothing changes.

    Choosing the sharpest of neighbours leaves motion blur out.
    """
    grey = np.asarray(image.convert("L"), np.float32)
    if min(grey.shape) < 3:
        return 0.0
    around = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
    return float((around - 4 * grey[1:-1, 1:-1]).var())


def write(
    row: PairRow, pictures: Sequence[Image.Image], pair: ActionPair, layout: Layout, quality: int
) -> None:
    """Writes a pair's frames and adds their hashes to its line; nothing else stays in its folder."""
    contents = [encode(picture, quality) for picture in pictures]
    for frame, content in zip(row["frames"], contents, strict=True):
        frame["sha256"] = hashlib.sha256(content).hexdigest()
    pair.row = row
    files = pair.paths(layout)
    remove(files)
    for path, content in zip(files, [*contents, contents[1]], strict=False):
        with atomic_open(path) as file:
            file.write(content)


def remove(files: Sequence[Path]) -> None:
    """Removes the folders of a pair's files, with what a killed run may have left in them."""
    for folder in {path.parent for path in files}:
        shutil.rmtree(folder, ignore_errors=True)


def lost_row(pair: ActionPair, lost: Lost) -> dict[str, str]:
    """The journal's line of a pair that cannot be had."""
    return {"clip": pair.clip, "id": pair.id, "reason": lost.reason}
