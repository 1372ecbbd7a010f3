"""The checks of a split's frames: presence, sizes, order, metric targets, actions that occur twice."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from filecmp import cmp
from functools import lru_cache
from itertools import compress

import numpy as np
from jaxtyping import Int64

from egogen.annotations import Item
from egogen.distinct import among
from egogen.layout import normal, target_name
from egogen.stored_items import choose
from egogen.text_names import repeated
from egogen.validate.check_report import Check
from egogen.validate.frame_files import SplitFrames, list_marks, named
from egogen.validate.text_checks import Size

# Whoever resized may have rounded either way: EPIC-KITCHENS has widths of 456 where 455.1 is exact.
WIDTH_TOLERANCE = 1
MOST_FOLDERS = 1024  # whose first file is kept in memory
MIXED = 0x1E3779B97F4A7C15  # an odd number, by which two hashes make one


def check_frames(frames: SplitFrames, clips: Mapping[str, Size], height: int | None) -> list[Check]:
    """All checks of one split's frames; `height` is every frame's, by default the most frequent one."""
    labels = np.stack([np.array(frames.read.labels, np.int64), frames.of_actions[:, 0]], axis=1)
    return [
        *check_files(frames),
        check_pairs(frames),
        check_aspects(frames, clips),
        check_heights(frames, height),
        check_order(frames),
        *([check_metric_targets(frames)] if frames.split == "val" else []),
        check_repeats(frames, "same frames", frames.contents[frames.of_actions]),
        check_repeats(frames, "same label and frame", labels),
    ]


def check_files(frames: SplitFrames) -> list[Check]:
    """Annotations against files, both ways, and whether the frames are whole."""
    absent = (f"{name}: no such frame" for name in frames.names(np.flatnonzero(~frames.present)))
    names = frames.names(np.array([*frames.faults], np.int64))
    broken = (f"{name}: {fault}" for name, fault in zip(names, frames.faults.values(), strict=True))
    unknown = (f"{name}: no action names this file" for name in frames.extra)
    return [
        frames.check("frames present", len(frames.present), absent),
        frames.check("frames readable", int(frames.present.sum()), broken),
        frames.check("extra files", frames.count, unknown),
    ]


def pair_sizes(frames: SplitFrames) -> Int64[np.ndarray, "n 2"]:
    """The numbers of the sizes of each action's input and target; -1 of both where one cannot be read."""
    sizes = frames.sizes[frames.of_actions]
    sizes[(sizes < 0).any(axis=1)] = -1
    return sizes


def check_pairs(frames: SplitFrames) -> Check:
    """Input and target must have one size."""
    sizes = pair_sizes(frames)
    check = frames.check("sizes of pairs", int((sizes[:, 0] >= 0).sum()))
    rows = np.flatnonzero(sizes[:, 0] != sizes[:, 1])
    for item, pair in zip(choose(frames.items, rows), sizes[rows].tolist(), strict=True):
        given, size = (shown(frames.all_sizes[each]) for each in pair)
        check.faults.append(f"{item.action.image_1}: {size}, its input is {given}")
    return check


def check_aspects(frames: SplitFrames, clips: Mapping[str, Size]) -> Check:
    """Frames must have the aspect ratio of their clip's metadata, within a pixel of width."""
    facts = [clips.get(clip) for clip in frames.read.clips]
    clip = np.repeat(np.arange(len(facts)), frames.read.counts)[:, None]
    sizes, count = pair_sizes(frames), max(1, len(frames.all_sizes))
    seen = (sizes >= 0) & np.array([size is not None for size in facts], bool)[clip]
    kinds = clip * count + sizes  # few: of a clip and a size
    off = [
        kind
        for kind in np.unique(kinds[seen]).tolist()
        if (size := facts[kind // count]) and is_off(frames.all_sizes[kind % count], size)
    ]
    wrong = seen & np.isin(kinds, off)
    rows = np.flatnonzero(wrong.any(axis=1))
    check = frames.check("aspect ratio", int(seen.sum()))
    names = compress(named(choose(frames.items, rows)), wrong[rows].flat)
    for name, kind in zip(names, kinds[rows][wrong[rows]].tolist(), strict=True):
        size, its = frames.all_sizes[kind % count], facts[kind // count] or (0, 0)
        check.faults.append(
            f"{name}: {shown(size)}, the metadata's {shown(its)} asks for a width of {width(size, its)}"
        )
    return check


def is_off(size: Size, known: Size) -> bool:
    """Whether a frame's width is another than that of its clip asks for."""
    return abs(size[0] - width(size, known)) > WIDTH_TOLERANCE


def width(size: Size, known: Size) -> int:
    """The width that a frame of its height has, by the size of its clip."""
    return round(size[1] * known[0] / known[1])


def shown(size: Size) -> str:
    """A size in words."""
    return f"{size[0]} x {size[1]}"


def check_heights(frames: SplitFrames, height: int | None) -> Check:
    """All frames must have one height."""
    counts = Counter[int]()
    found = np.bincount(frames.sizes[frames.sizes >= 0], minlength=len(frames.all_sizes))
    for size, count in zip(frames.all_sizes, found.tolist(), strict=True):
        counts[size[1]] += count
    expected = height or (counts.most_common(1) or [(0, 0)])[0][0]
    # The last, which -1 stands for, is that of frames whose size is not known.
    heights = np.array([*(size[1] for size in frames.all_sizes), expected])[frames.sizes]
    numbers = np.flatnonzero(heights != expected)
    pairs = zip(frames.names(numbers), heights[numbers].tolist(), strict=True)
    faults = (f"{name}: height {its}, expected {expected}" for name, its in pairs)
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
    folder, targets = frames.layout.metric_targets, frames.of_actions[:, 1]
    marks = np.fromiter((hash(target_name(item.action.image_1)) for item in frames.items), np.int64)
    listed = list_marks(folder, np.sort(marks))
    _, first, which = np.unique(marks, return_index=True, return_inverse=True)
    owners = first[which]  # the first action whose target has the name
    states = zip(targets[owners] != targets, among(marks, listed.files), frames.present[targets], strict=True)
    for row, (item, (is_other, is_there, is_present)) in enumerate(zip(frames.items, states, strict=True)):
        target = item.action.image_1
        name = target_name(target)
        if is_other:
            owner = frames.items[int(owners[row])].action.image_1
            check.faults.append(f"{name}: is the metric target of both {owner} and {target}")
        elif not is_there:
            check.faults.append(f"{name}: missing in {folder.name}")
        elif is_present and not cmp(f"{folder}/{name}", f"{frames.folder}/{target}", shallow=False):
            check.faults.append(f"{name}: its bytes differ from those of the val target {target}")
    check.faults += [f"{name}: in {folder.name}, but no val target" for name in listed.extra]
    return check


def check_repeats(frames: SplitFrames, name: str, keys: Int64[np.ndarray, "n 2"]) -> Check:
    """No two actions may have the same key."""
    check = frames.check(name, len(frames.items))
    rows = np.flatnonzero(repeated(keys[:, 0] * MIXED + keys[:, 1]))  # of these, keys are looked at in full
    first: dict[tuple[int, ...], Item] = {}
    for key, item in zip(map(tuple, keys[rows].tolist()), choose(frames.items, rows), strict=True):
        other = first.setdefault(key, item)
        if other is not item:
            check.faults.append(
                f"{item.clip}/{item.id}: the same as {other.clip}/{other.id} ({item.action.action})"
            )
    return check
