"""Repairs what can be repaired without a loss: metric targets, which are copies, and unfinished files.

Frames, annotations and features are never changed. What is no metric target is moved aside, not deleted.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from filecmp import cmp
from pathlib import Path

from egogen.annotations import Item
from egogen.files import atomic_open
from egogen.layout import Layout, metric_target_path
from egogen.validate.across import leftovers
from egogen.validate.frames import files_below, probe


def delete_leftovers(layout: Layout) -> list[str]:
    """Deletes unfinished files; no other command may be writing at that time.

    Returns:
        What was done, one line each.
    """
    done = []
    for path in leftovers(layout):
        path.unlink()
        done.append(f"deleted the unfinished file {path}")
    return done


def rebuild_metric_targets(layout: Layout, items: Sequence[Item]) -> list[str]:
    """Makes `val_gt_for_metric` equal to the val targets.

    A target that is missing or broken changes nothing: its copy may be the last good one.

    Args:
        layout: the data set.
        items: all val actions.

    Returns:
        What was done, one line each.
    """
    folder = layout.metric_targets
    copied = [goal for item in items if (goal := copy_target(layout, item)) is not None]
    wanted = {metric_target_path(Path(), item.action.image_1).as_posix() for item in items}
    moved = list(move_extras(folder, layout.metric_extras, wanted))
    return [
        *([f"copied {len(copied)} val targets to {folder}"] if copied else []),
        *([f"moved {len(moved)} files that are no val targets to {layout.metric_extras}"] if moved else []),
    ]


def copy_target(layout: Layout, item: Item) -> Path | None:
    """Copies one target to where metrics look for it; returns that place, or None if it was in order."""
    source = layout.frames("val") / item.action.image_1
    goal = metric_target_path(layout.metric_targets, item.action.image_1)
    if goal.is_file() and source.is_file() and cmp(source, goal, shallow=False):
        return None
    if probe(source).fault:
        return None
    with source.open("rb") as content, atomic_open(goal) as file:
        shutil.copyfileobj(content, file)
    return goal


def move_extras(folder: Path, aside: Path, wanted: set[str]) -> Iterator[Path]:
    """Moves files that are not wanted to another folder, under their names."""
    for name in sorted(set(files_below(folder)) - wanted):
        goal = aside / name
        if not goal.exists():
            goal.parent.mkdir(parents=True, exist_ok=True)
            yield (folder / name).rename(goal)
