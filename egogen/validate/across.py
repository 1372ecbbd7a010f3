"""The checks across splits: contents that occur twice, clips in both, features, unfinished files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from operator import attrgetter
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import Int64

from egogen.annotations import Item
from egogen.errors import UserError
from egogen.features import read_image_feature, read_text_feature
from egogen.layout import Layout, features_root, find_feature, find_text_feature
from egogen.text_names import TextNames
from egogen.unfinished import PARTS
from egogen.validate.check_report import Check
from egogen.validate.frame_files import SplitFrames, spread
from egogen.walks import walk


def check_contents(splits: Sequence[SplitFrames]) -> Check:
    """No two frames of a data set may have the same bytes, in one split or in both.

    A frame that several actions of a clip use, as their input say, is one frame: they share its number.
    """
    numbers = [np.flatnonzero(frames.has_content) for frames in splits]
    contents = np.concatenate([frames.contents[its] for frames, its in zip(splits, numbers, strict=True)])
    check = Check(splits[0].layout.dataset, "", "same content", len(contents))
    _, first, which = np.unique(contents, return_index=True, return_inverse=True)
    before = first[which]

    def names(rows: Int64[np.ndarray, " n"]) -> Iterator[PurePosixPath]:
        start = 0
        for frames, its in zip(splits, numbers, strict=True):
            mine = rows[(rows >= start) & (rows < start + len(its))] - start
            yield from (PurePosixPath(frames.split, name) for name in frames.names(its[mine]))
            start += len(its)

    again = np.flatnonzero(before != np.arange(len(before)))
    both = np.union1d(again, before[again])
    places = np.fromiter((hash((name.parent.parent, name.name)) for name in names(both)), np.int64)
    own, other = (places[np.searchsorted(both, rows)] for rows in (again, before[again]))
    wrong = again[own != other]
    both = np.union1d(wrong, before[wrong])
    shown = dict(zip(both.tolist(), names(both), strict=True))
    pairs = zip(wrong.tolist(), before[wrong].tolist(), strict=True)
    check.faults = [f"{shown[row]}: the same bytes as {shown[earlier]}" for row, earlier in pairs]
    return check


def check_leaks(splits: Sequence[SplitFrames]) -> Check:
    """No clip may be in both splits."""
    clips = [set(frames.read.clips) for frames in splits]
    both = sorted(set.intersection(*clips)) if len(clips) > 1 else []
    faults = [f"clip {clip!r} is in the train and in the val annotations" for clip in both]
    return Check(splits[0].layout.dataset, "", "clips in train and val", len(set().union(*clips)), faults)


def check_features(frames: SplitFrames, root: Path, width: int | None, workers: int) -> list[Check]:
    """Every action must have an image feature [256, d] and a text feature [n, d]; d is that of the first."""
    dataset, split = frames.layout.dataset, frames.split
    images, texts = (features_root(root, dataset, split, kind) for kind in ("llava_image", "llava_text"))
    names = TextNames(frames.items, attrgetter("image_0"))
    width = width or width_of_first(images, frames.items)

    def look(item: Item) -> tuple[str | None, str | None]:
        image = item.action.image_0
        text = find_text_feature(texts, names.of(item), image)
        return (
            fault(read_image_feature, find_feature(images, image), width),
            fault(read_text_feature, text, width),
        )

    count = len(frames.items)
    checks = [frames.check(name, count) for name in ("image features", "text features")]
    for found in spread(look, frames.items, count, workers, f"{dataset} {split} features"):
        for check, told in zip(checks, found, strict=True):
            check.faults += filter(None, [told])
    return checks


def fault(read: Callable[..., object], path: Path, width: int | None) -> str | None:
    """What is wrong with a feature file, if anything."""
    try:
        read(path, width, outline=True)
    except UserError as error:
        return str(error)
    return None


def width_of_first(root: Path, items: Iterable[Item]) -> int | None:
    """The width of the first image feature that can be read."""
    for item in items:
        with suppress(UserError):
            return int(read_image_feature(find_feature(root, item.action.image_0)).shape[1])
    return None


def check_leftovers(layout: Layout) -> Check:
    """No unfinished file may be left by a command that was killed."""
    found = sorted(path.relative_to(layout.egogen).as_posix() for path in leftovers(layout))
    return Check("", "", "leftover files", len(found), [f"{name}: unfinished" for name in found])


def leftovers(layout: Layout) -> list[Path]:
    """Unfinished files in the EgoGen folder."""
    below = (place / name for place, _, files, _ in walk(layout.egogen) for name in files)
    return [path for path in below if fnmatchcase(path.name, PARTS)]
