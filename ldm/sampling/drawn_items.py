"""Which items a folder of frames was drawn from: where annotations have grown, the further ones are added."""

from __future__ import annotations

import hashlib
import json
import logging
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from egogen.annotations import Item, JsonObject, check_object
from egogen.distinct import distinct
from egogen.errors import UserError
from egogen.files import atomic_open, read_json, write_json
from egogen.manifest import NAME, claim
from ldm.data.pairs import SplitFiles

ITEMS, ANNOTATIONS = "items", "annotations"
NOTED = "items.json"  # beside the manifest, which every start reads
log = logging.getLogger(__name__)


def item_digests(files: SplitFiles) -> Iterator[tuple[str, str]]:
    """What each item is drawn from, beside its `clip/action`: names of frames and features, and its text."""
    names = None if files.features is None else files.features.names

    def drawn_from(item: Item) -> list[str | None]:
        text = None if names is None else names.of(item)
        return [item.action.image_0, item.action.image_1, files.prompt(item), text]

    for item in files.items:
        content = json.dumps(drawn_from(item)).encode()
        yield f"{item.clip}/{item.id}", hashlib.sha256(content).hexdigest()[:16]


def known_items(folder: Path) -> dict[str, str]:
    """The items that a folder was claimed for; none where it is new, or was claimed without noting them."""
    before = read_claim(folder)
    return noted(folder, before) or {} if before else {}


def read_claim(folder: Path) -> JsonObject:
    """What the folder's manifest says; empty where there is none."""
    path = folder / NAME
    return check_object(read_json(path), f"{path}", "settings by name") if path.exists() else {}


def noted(folder: Path, before: Mapping[str, object]) -> dict[str, str] | None:
    """The items of a claimed folder, in a file of their own, in old folders in the manifest; else None."""
    path = folder / NOTED
    items = read_json(path) if ITEMS not in before and path.exists() else before.get(ITEMS)
    return {name: f"{value}" for name, value in items.items()} if isinstance(items, dict) else None


def claim_items(
    folder: Path, settings: Mapping[str, object], made: Callable[[], Iterable[tuple[str, str]]]
) -> None:
    """Makes a folder that of settings and items, or checks that it is.

    Further items of other annotations are added; those that were known must be as they were. Items of the
    same annotations and settings are the same: they are not looked at.

    Args:
        folder: of frames.
        settings: what makes a frame what it is; `annotations` is the file's hash.
        made: gives the items, as `item_digests` does.

    Raises:
        UserError: the folder was begun with other settings, or an item has changed since.
    """
    before = read_claim(folder)
    if not before:
        note_items(folder / NOTED, made)
        claim(folder, settings)
        return
    same = {ANNOTATIONS: before.get(ANNOTATIONS)} if is_noted(folder, before) else {}
    claim(folder, {**settings, **same, **({ITEMS: before[ITEMS]} if ITEMS in before else {})})
    if not same or (settings.get(ANNOTATIONS) and settings[ANNOTATIONS] == before[ANNOTATIONS]):
        return
    known, items = noted(folder, before) or {}, dict(made())
    changed = [name for name in items if known.get(name, items[name]) != items[name]]
    if changed:
        raise UserError(
            f"{folder}: {changed[0]} has another frame or text than when it was drawn, as have "
            f"{len(changed)} of {len(items)} items; choose another output folder, or delete this one to "
            "draw all of it anew"
        )
    more = items.keys() - known.keys()
    if more:
        log.info("%s: %d items are new since it was begun; they are added", folder, len(more))
        added = {**known, **items}
        write_json(folder / NOTED, {name: added[name] for name in in_order(known, items)}, indent=None)
        write_json(folder / NAME, dict(settings))


def note_items(path: Path, made: Callable[[], Iterable[tuple[str, str]]]) -> None:
    """Writes items as one object of JSON, one after the other: they may be millions."""
    marks = array("q")
    with atomic_open(path) as file:
        file.write(b"{")
        for name, value in made():
            file.write(f"{', ' if marks else ''}{json.dumps(name)}: {json.dumps(value)}".encode())
            marks.append(hash(name))
        file.write(b"}\n")
    # a/b of clip c, and b of clip c/a: the last counts
    if distinct(np.frombuffer(marks, np.int64)) < len(marks):
        write_json(path, dict(made()), indent=None)


def in_order(known: Mapping[str, object], wanted: Iterable[str]) -> list[str]:
    """Known names where they are, further ones where they are wanted: an interruption shows nowhere."""
    behind, place, first = dict[str | None, list[str]](), None, None
    for name in dict.fromkeys(wanted):
        if name in known:
            place, first = name, first or name
        else:
            behind.setdefault(place, []).append(name)
    front = behind.get(None, [])
    found = []
    for name in known:
        found += [*(front if name == first else ()), name, *behind.get(name, ())]
    return found if first else found + front


def is_noted(folder: Path, before: Mapping[str, object]) -> bool:
    """Whether a claimed folder says of its items; of old, it said of the annotations alone."""
    return isinstance(before.get(ITEMS), dict) or (ITEMS not in before and (folder / NOTED).exists())
