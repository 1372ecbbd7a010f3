"""Reads annotations, metadata and curated conversations entry by entry: each bad one is a fault."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence

import numpy as np

from egogen.annotations import Action, ClipFile, ClipMetadata, Item, check_object, make_item, validate
from egogen.conversations import Conversation
from egogen.distinct import among
from egogen.errors import UserError, shorten
from egogen.files import no_garbage, read_json
from egogen.layout import Layout, Split, is_plain, normal
from egogen.reserved import IMAGE_TAG, text_fault
from egogen.stored_items import choose
from egogen.validate.check_report import Check

Size = tuple[int, int]


class SplitItems:
    """The actions of a split that can be read, and what checks ask of all of them: 24 bytes each.

    Args:
        check: counts them, and notes what cannot be read.
    """

    def __init__(self, check: Check) -> None:
        self.check = check
        self.items: Sequence[Item] = []
        self.clips: list[str] = []  # that have actions
        self.counts = array("q")  # of these, how many
        self.frames = array("q")  # hashes of the names of input and target, one action after the other
        self.labels = array("q")  # and of labels
        self.normal = array("q")  # of names that are not as files are listed, as they would be

    def add(self, item: Item) -> None:
        """Notes an action, after those before it in the file."""
        if not self.clips or self.clips[-1] != item.clip:
            self.clips.append(item.clip)
            self.counts.append(0)
        self.counts[-1] += 1
        action = item.action
        self.labels.append(hash(action.action))
        for name in (action.image_0, action.image_1):
            self.frames.append(hash(name))
            if not is_plain(name):
                self.normal.append(hash(normal(name)))


def read_annotations(layout: Layout, split: Split) -> SplitItems:
    """The actions that can be read; entries that cannot are faults, as is a missing file."""
    check = Check(layout.dataset, split, "annotations")
    path, found, sound = layout.annotations(split), SplitItems(check), bytearray()
    file = ClipFile(path, make_any)
    try:
        with no_garbage():
            for clip, actions in file:
                where = f"{path.name}: clip {clip!r}"
                with check.noting():
                    entries = check_object(actions, where, "actions by action_id")
                    # Of a large file nothing is kept but where they lie.
                    items = (
                        [] if file.store is not None else [make_any(clip, *each) for each in entries.items()]
                    )
                    file.keep(clip, items)
                    sound += bytes(read_action(clip, *each, where, found) for each in entries.items())
        if not check.items and not check.faults:
            raise UserError(f"{path.name}: holds no action")
    except UserError as error:  # the file cannot be read to its end: nothing of it counts
        return SplitItems(Check(layout.dataset, split, "annotations", 0, [str(error)]))
    found.items = file.items if all(sound) else choose(file.items, np.flatnonzero(np.frombuffer(sound, bool)))
    return found


def make_any(clip: str, action_id: str, entry: object) -> Item:
    """An item of an entry that may be none of an action: such a one but keeps its place."""
    return make_item(clip, action_id, entry if isinstance(entry, dict) else {})


def read_action(clip: str, action_id: str, entry: object, where: str, found: SplitItems) -> bool:
    """Notes an action; whether it can be read. If not, or if its label is none, that is a fault."""
    found.check.items += 1
    place, is_read = f"{where}, action {action_id!r}", False
    with found.check.noting():
        action = Action.read(entry, place)
        is_read = True
        found.add(Item(clip, action_id, action))
        check_text(action.action, f"{place}: the label")
    return is_read


def check_text(text: str, what: str) -> None:
    """Raises a `UserError` if stage 1 cannot be given a text."""
    if reason := text_fault(text):
        raise UserError(f"{what} {shorten(text)}: {reason}")


def read_metadata_of(layout: Layout, clips: Iterable[str]) -> tuple[dict[str, Size], Check]:
    """Width and height by clip; of the clips that annotations name, those without any are faults."""
    check = Check(layout.dataset, "", "metadata")
    path = layout.metadata
    known: dict[str, Size] = {}
    with check.noting():
        entries = check_object(read_json(path), f"{path}", "clips by clip_id")
        for clip, entry in entries.items():
            check.items += 1
            with check.noting():
                facts = validate(ClipMetadata, entry, f"{path.name}: clip {clip!r}")
                known[clip] = facts.width, facts.height
        check.faults += [
            f"{path.name}: clip {clip!r} is missing; its height and width are needed"
            for clip in sorted(set(clips) - set(entries))
        ]
    return known, check


def check_curation(layout: Layout, train: SplitItems | None) -> Check:
    """Compares the curated conversations, if there are any, with the frames of the train actions."""
    check = Check(layout.dataset, "train", "curation")
    path = layout.conversations
    if not path.exists():
        return check
    frames = np.unique(np.array([] if train is None else train.frames, np.int64))
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
                if image is None or not among(np.array([hash(image)]), frames)[0]:
                    raise UserError(f"{where}: the image {image!r} is no frame of the train annotations")
                if not (layout.frames("train") / image).is_file():
                    raise UserError(f"{where}: the train frame {image!r} does not exist")
    return check
