"""Checks a whole data root: all data sets, all splits, in one order."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from egogen.errors import UserError
from egogen.hints import hint
from egogen.layout import FOLDERS, Layout, Split
from egogen.validate.across import check_contents, check_features, check_leaks, check_leftovers
from egogen.validate.check_report import Check, Report
from egogen.validate.checks import check_frames
from egogen.validate.frame_files import SplitFrames
from egogen.validate.repair import copy_targets, delete_leftovers, move_extras
from egogen.validate.text_checks import check_curation, read_annotations, read_metadata_of
from egogen.validate.validate_options import ValidateOptions


def validate(options: ValidateOptions) -> Report:
    """Checks a data root.

    Raises:
        UserError: there is no data set, or none of its annotations can be read.
    """
    layouts = [Layout(options.root, name) for name in present(options.root, options.dataset)]
    report = Report(str(options.root))
    if options.fix:
        report.repaired += delete_leftovers(layouts[0])
    for layout in layouts:
        check_dataset(layout, options, report)
    report.checks.append(check_leftovers(layouts[0]))
    texts = [check for check in report.checks if check.name == "annotations"]
    unread = [line for check in texts for line in check.faults]
    if unread and not any(check.items for check in texts):
        raise UserError(f"no action can be read: {unread[0]}")
    return report


def present(root: Path, dataset: str | None) -> list[str]:
    """The data sets of a root.

    Raises:
        UserError: there is none, or not the one asked for.
    """
    found = [name for name in FOLDERS if splits_of(Layout(root, name))]
    if dataset in found:
        return [dataset]
    if dataset or not found:
        expected = Layout(root, dataset or next(iter(FOLDERS))).annotations("train")
        raise UserError(
            f"{root}: no data set {dataset or 'of ours'} here; expected {expected} or a val file beside it; "
            f"give the folder that holds EgoGen/{hint(expected)}"
        )
    return found


def splits_of(layout: Layout) -> list[Split]:
    """The splits that have an annotation file or a folder of frames."""
    return [
        split
        for split in get_args(Split)
        if layout.annotations(split).exists() or layout.frames(split).exists()
    ]


def check_dataset(layout: Layout, options: ValidateOptions, report: Report) -> None:
    """Adds the checks of one data set to a report."""
    read = {split: read_annotations(layout, split) for split in splits_of(layout)}
    clips, metadata = read_metadata_of(layout, {clip for each in read.values() for clip in each.clips})
    if options.fix and "val" in read and not read["val"].check.faults:
        items = read["val"].items
        report.repaired += copy_targets(layout, items) + move_extras(layout, items)
    splits = [SplitFrames(layout, split, each, options.workers) for split, each in read.items()]
    checks: list[Check] = [*(each.check for each in read.values()), metadata]
    for frames in splits:
        checks += check_frames(frames, clips, options.height)
        if options.features:
            checks += check_features(frames, options.features, options.width, options.workers)
    curation = check_curation(layout, read.get("train"))
    report.checks += [*checks, check_contents(splits), check_leaks(splits), curation]
