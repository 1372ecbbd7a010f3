"""Reads annotations, metadata and curated conversations entry by entry: each bad one is a fault."""

from __future__ import annotations

from collections.abc import Iterable

from egogen.annotations import Action, ClipFile, ClipMetadata, Item, check_object, make_item, validate
from egogen.conversations import Conversation
from egogen.errors import UserError, shorten
from egogen.files import no_garbage, read_json
from egogen.layout import Layout, Split
from egogen.reserved import IMAGE_TAG, text_fault
from egogen.validate.check_report import Check
from egogen.validate.frame_files import frame_names


def read_annotations(layout: Layout, split: Split) -> tuple[list[Item], Check]:
    """The actions that can be read; entries that cannot are faults, as is a missing file."""
    check = Check(layout.dataset, split, "annotations")
    path = layout.annotations(split)
    items: list[Item] = []
    try:
        with no_garbage():
            for clip, actions in ClipFile(path, make_item):
                with check.noting():
                    read_actions(clip, actions, f"{path.name}: clip {clip!r}", items, check)
        if not check.items and not check.faults:
            raise UserError(f"{path.name}: holds no action")
    except UserError as error:  # the file cannot be read to its end: nothing of it counts
        return [], Check(layout.dataset, split, "annotations", 0, [str(error)])
    return items, check


def read_actions(clip: str, actions: object, where: str, items: list[Item], check: Check) -> None:
    """Adds the actions of a clip that can be read; the others are faults."""
    for action_id, entry in check_object(actions, where, "actions by action_id").items():
        check.items += 1
        place = f"{where}, action {action_id!r}"
        try:
            action = Action.read(entry, place)
            items.append(Item(clip, action_id, action))
            check_text(action.action, f"{place}: the label")
        except UserError as error:
            check.faults.append(str(error))


def check_text(text: str, what: str) -> None:
    """Raises a `UserError` if stage 1 cannot be given a text."""
    if reason := text_fault(text):
        raise UserError(f"{what} {shorten(text)}: {reason}")


def read_metadata_of(layout: Layout, clips: Iterable[str]) -> tuple[dict[str, ClipMetadata], Check]:
    """Metadata by clip; of the clips that annotations name, those without any are faults."""
    check = Check(layout.dataset, "", "metadata")
    path = layout.metadata
    known: dict[str, ClipMetadata] = {}
    with check.noting():
        entries = check_object(read_json(path), f"{path}", "clips by clip_id")
        for clip, entry in entries.items():
            check.items += 1
            with check.noting():
                known[clip] = validate(ClipMetadata, entry, f"{path.name}: clip {clip!r}")
        check.faults += [
            f"{path.name}: clip {clip!r} is missing; its height and width are needed"
            for clip in sorted(set(clips) - set(entries))
        ]
    return known, check


def check_curation(layout: Layout, items: Iterable[Item]) -> Check:
    """Compares the curated conversations, if there are any, with the frames of the train actions."""
    check = Check(layout.dataset, "train", "curation")
    path = layout.conversations
    if not path.exists():
        return check
    frames = set(frame_names(items))
    with check.noting():
        records = read_json(path)
        if not isinstance(records, list):
            raise UserError(f"{path}: found {type(records).__name__}, expected a list of records")
        for index, record in enumerate(records):
            check.items += 1
            where = f"{path.name}: record {index}"
            with check.noting():
                known = validate(Conversation, record, where)
                image = known.image
                for turn in known.conversations:
                    check_text(turn.value.replace(IMAGE_TAG, ""), f"{where}: the turn")
                if image is None or image not in frames:
                    raise UserError(f"{where}: the image {image!r} is no frame of the train annotations")
                if not (layout.frames("train") / image).is_file():
                    raise UserError(f"{where}: the train frame {image!r} does not exist")
    return check
