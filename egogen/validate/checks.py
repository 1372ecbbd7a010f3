"""The checks of a split's frames: presence, sizes, order, metric targets, actions that occur twice."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping
from filecmp import cmp
from functools import lru_cache

import numpy as np

from egogen.annotations import ClipMetadata, Item
from egogen.layout import normal, target_name
from egogen.validate.check_report import Check
from egogen.validate.frame_files import SplitFrames, list_below
from egogen.walks import is_hidden

# Whoever resized may have rounded either way: EPIC-KITCHENS has widths of 456 where 455.1 is exact.
WIDTH_TOLERANCE = 1
MOST_FOLDERS = 1024  # whose first file is kept in memory


def check_frames(frames: SplitFrames, clips: Mapping[str, ClipMetadata], height: int | None) -> list[Check]:
    """All checks of one split's frames; `height` is every frame's, by default the most frequent one."""

    def contents(item: Item) -> Hashable:
        return frames.content(item.action.image_0), frames.content(item.action.image_1)

    return [
        *check_files(frames),
        check_pairs(frames),
        check_aspects(frames, clips),
        check_heights(frames, height),
        check_order(frames),
        *([check_metric_targets(frames)] if frames.split == "val" else []),
        check_repeats(frames, "same frames", contents),
        check_repeats(frames, "same label and frame", lambda item: (item.action.action, item.action.image_0)),
    ]


def check_files(frames: SplitFrames) -> list[Check]:
    """Annotations against files, both ways, and whether the frames are whole."""
    named, probes = frames.named, frames.probes
    absent = (f"{name}: no such frame" for name in named if name not in probes)
    broken = (f"{name}: {found.fault}" for name, found in probes.items() if found.fault)
    unknown = (f"{name}: no action names this file" for name in frames.extra)
    return [
        frames.check("frames present", len(named), absent),
        frames.check("frames readable", len(probes), broken),
        frames.check("extra files", frames.count, unknown),
    ]


def sizes(frames: SplitFrames) -> Iterator[tuple[Item, tuple[int, int], tuple[int, int]]]:
    """Actions with the (width, height) of input and target, where both can be read."""
    for item in frames.items:
        before, after = (frames.probes.get(name) for name in (item.action.image_0, item.action.image_1))
        if before and after and before.size and after.size:
            yield item, before.size, after.size


def check_pairs(frames: SplitFrames) -> Check:
    """Input and target must have one size."""
    check = frames.check("sizes of pairs")
    for item, before, after in sizes(frames):
        check.items += 1
        if before != after:
            size, given = (f"{width} x {height}" for width, height in (after, before))
            check.faults.append(f"{item.action.image_1}: {size}, its input is {given}")
    return check


def check_aspects(frames: SplitFrames, clips: Mapping[str, ClipMetadata]) -> Check:
    """Frames must have the aspect ratio of their clip's metadata, within a pixel of width."""
    check = frames.check("aspect ratio")
    for item, *found in sizes(frames):
        if facts := clips.get(item.clip):
            for name, (width, height) in zip((item.action.image_0, item.action.image_1), found, strict=True):
                check.items += 1
                expected = round(height * facts.width / facts.height)
                if abs(width - expected) > WIDTH_TOLERANCE:
                    check.faults.append(
                        f"{name}: {width} x {height}, the metadata's {facts.width} x {facts.height} "
                        f"asks for a width of {expected}"
                    )
    return check


def check_heights(frames: SplitFrames, height: int | None) -> Check:
    """All frames must have one height."""
    counts = Counter(probe.size[1] for probe in frames.probes.values() if probe.size)
    expected = height or (counts.most_common(1) or [(0, 0)])[0][0]
    faults = (
        f"{name}: height {probe.size[1]}, expected {expected}"
        for name, probe in frames.probes.items()
        if probe.size and probe.size[1] != expected
    )
    return frames.check("height", counts.total(), faults)


def check_order(frames: SplitFrames) -> Check:
    """The input must be the first file of its folder: the EgoVLP+ metric takes the first as the input."""
    check = frames.check("input sorts first", len(frames.items))

    @lru_cache(MOST_FOLDERS)  # actions may share a folder
    def first_of(folder: str) -> str | None:
        try:
            names = os.listdir(f"{frames.folder}/{folder}")  # noqa: PTH208 - of millions
            return min((each for each in names if each[0] != "."), default=None)  # as the metric takes it
        except OSError:  # no such folder, or links that lead to each other: its frames are told to be missing
            return None

    for item in frames.items:
        before, after = normal(item.action.image_0), normal(item.action.image_1)
        folder, _, name = before.rpartition("/")
        if before == after:
            check.faults.append(f"{before}: is both the input and the target")
        elif folder != after.rpartition("/")[0]:
            check.faults.append(f"{after}: its input {before} is in another folder")
        elif (first := first_of(folder) or name) != name:
            check.faults.append(f"{before}: {first!r} sorts before it")
    return check


def check_metric_targets(frames: SplitFrames) -> Check:
    """`val_gt_for_metric` must hold the val targets: the same names, the same bytes, nothing else."""
    check = frames.check("metric targets", len(frames.items))
    folder = frames.layout.metric_targets
    there = dict(list_below(folder))
    owners: dict[str, str] = {}
    for item in frames.items:
        target = item.action.image_1
        name = target_name(target)
        if owners.setdefault(name, target) != target:
            check.faults.append(f"{name}: is the metric target of both {owners[name]} and {target}")
        elif not there.get(name):
            check.faults.append(f"{name}: missing in {folder.name}")
        elif target in frames.probes and not cmp(
            f"{folder}/{name}", f"{frames.folder}/{target}", shallow=False
        ):
            check.faults.append(f"{name}: its bytes differ from those of the val target {target}")
    extra = sorted(name for name in there.keys() - owners.keys() if not is_hidden(name))
    check.faults += [f"{name}: in {folder.name}, but no val target" for name in extra]
    return check


def check_repeats(frames: SplitFrames, name: str, key: Callable[[Item], Hashable]) -> Check:
    """No two actions may have the same key."""
    check = frames.check(name, len(frames.items))
    # Of millions, keys are looked at in full where their hashes are equal.
    hashes = np.fromiter((hash(key(item)) for item in frames.items), np.int64, len(frames.items))
    values, counts = np.unique(hashes, return_counts=True)
    if len(values) == len(hashes):
        return check
    first: dict[Hashable, Item] = {}
    repeated = set(values[counts > 1].tolist())
    for item, its_hash in zip(frames.items, hashes.tolist(), strict=True):
        other = first.setdefault(key(item), item) if its_hash in repeated else item
        if other is not item:
            check.faults.append(
                f"{item.clip}/{item.id}: the same as {other.clip}/{other.id} ({item.action.action})"
            )
    return check
