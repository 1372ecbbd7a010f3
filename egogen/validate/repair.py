"""Repairs what can be repaired without a loss: metric targets, which are copies, and unfinished files.

Frames, annotations and features are never changed. What is no metric target is moved aside, not deleted.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from filecmp import cmp
from pathlib import Path

from egogen.annotations import Item
from egogen.files import atomic_open
from egogen.layout import Layout, metric_target_path
from egogen.validate.across import leftovers
from egogen.validate.frame_files import files_below, probe


def delete_leftovers(layout: Layout) -> list[str]:
    """Deletes unfinished files and says so; no other command may be writing at that time."""
    done = []
    for path in leftovers(layout):
        path.unlink()
        done.append(f"deleted the unfinished file {path}")
    return done


def copy_targets(layout: Layout, items: Sequence[Item]) -> list[str]:
    """Copies val targets to `val_gt_for_metric` where they are missing or differ, and says how many.

    A target that is missing or broken changes nothing: its copy may be the last good one.
    """
    copied = 0
    for item in items:
        source = layout.frames("val") / item.action.image_1
        goal = metric_target_path(layout.metric_targets, item.action.image_1)
        if not probe(source).fault and not (goal.is_file() and cmp(source, goal, shallow=False)):
            with source.open("rb") as content, atomic_open(goal) as file:
                shutil.copyfileobj(content, file)
            copied += 1
    return [f"copied {copied} val targets to {layout.metric_targets}"] if copied else []


def move_extras(layout: Layout, items: Sequence[Item]) -> list[str]:
    """Moves files aside that are in `val_gt_for_metric` without being val targets, and says so."""
    done = []
    wanted = {metric_target_path(Path(), item.action.image_1).as_posix() for item in items}
    for name in sorted(set(files_below(layout.metric_targets)) - wanted):
        goal = layout.metric_extras / name
        if not goal.exists():
            goal.parent.mkdir(parents=True, exist_ok=True)
            (layout.metric_targets / name).rename(goal)
            done.append(f"moved {layout.metric_targets / name}, which is no val target, to {goal}")
    return done
