"""Reads annotations, metadata and curated conversations entry by entry: each bad one is a fault."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from egogen.annotations import Action, ClipMetadata, Item, check_object, validate
from egogen.conversations import Conversation
from egogen.errors import UserError
from egogen.files import read_json
from egogen.layout import Layout, Split
from egogen.validate.check_report import Check


def read_annotations(layout: Layout, split: Split) -> tuple[list[Item], Check]:
    """The actions that can be read; entries that cannot are faults, as is a missing file."""
    check = Check(layout.dataset, split, "annotations")
    path = layout.annotations(split)
    items = []
    for clip, actions in entries(path, check, "clips by clip_id"):
        where = f"{path.name}: clip {clip!r}"
        for action_id, entry in objects(actions, where, check, "actions by action_id"):
            check.items += 1
            try:
                items.append(Item(clip, action_id, validate(Action, entry, f"{where}, action {action_id!r}")))
            except UserError as error:
                check.faults.append(str(error))
    return items, check


def read_clips(layout: Layout, clips: Iterable[str]) -> tuple[dict[str, ClipMetadata], Check]:
    """Metadata by clip; clips without any are faults.

    Args:
        layout: the data set.
        clips: those that annotations name.
    """
    check = Check(layout.dataset, "", "metadata")
    path = layout.metadata
    known: dict[str, ClipMetadata] = {}
    broken = set()
    read = entries(path, check, "clips by clip_id")
    if check.faults:
        return known, check
    for clip, entry in read:
        check.items += 1
        try:
            known[clip] = validate(ClipMetadata, entry, f"{path.name}: clip {clip!r}")
        except UserError as error:
            broken.add(clip)
            check.faults.append(str(error))
    for clip in sorted(set(clips) - set(known) - broken):
        check.faults.append(f"{path.name}: clip {clip!r} is missing; its height and width are needed")
    return known, check


def check_curation(layout: Layout, items: Iterable[Item]) -> Check:
    """Compares the curated conversations, if there are any, with the train frames.

    Args:
        layout: the data set.
        items: the train actions.
    """
    check = Check(layout.dataset, "train", "curation")
    path = layout.conversations
    if not path.exists():
        return check
    frames = {name for item in items for name in (item.action.image_0, item.action.image_1)}
    try:
        records = read_json(path)
        if not isinstance(records, list):
            raise UserError(f"{path}: found {type(records).__name__}, expected a list of records")
    except UserError as error:
        check.faults.append(str(error))
        return check
    for index, record in enumerate(records):
        check.items += 1
        where = f"{path.name}: record {index}"
        try:
            image = validate(Conversation, record, where).image
        except UserError as error:
            check.faults.append(str(error))
            continue
        if image is None or image not in frames:
            check.faults.append(f"{where}: the image {image!r} is no frame of the train annotations")
        elif not (layout.frames("train") / image).is_file():
            check.faults.append(f"{where}: the train frame {image!r} does not exist")
    return check


def entries(path: Path, check: Check, content: str) -> list[tuple[str, object]]:
    """The entries of a JSON object in a file; a file that cannot be read is a fault."""
    try:
        return list(check_object(read_json(path), f"{path}", content).items())
    except UserError as error:
        check.faults.append(str(error))
        return []


def objects(value: object, where: str, check: Check, content: str) -> list[tuple[str, object]]:
    """The entries of a JSON object inside a file; another type is a fault."""
    try:
        return list(check_object(value, where, content).items())
    except UserError as error:
        check.faults.append(str(error))
        return []
