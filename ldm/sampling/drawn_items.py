"""Which items a folder of frames was drawn from: where annotations have grown, the further ones are added."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

from egogen.annotations import check_object
from egogen.errors import UserError
from egogen.files import read_json, write_json
from egogen.manifest import NAME, claim
from ldm.data.pairs import SplitFiles

ITEMS, ANNOTATIONS = "items", "annotations"
log = logging.getLogger(__name__)


def item_digests(files: SplitFiles) -> dict[str, str]:
    """What each item is drawn from, by `clip/action`: names of its frames and features, and its text."""
    names = {} if files.features is None else files.features.names
    return {
        f"{item.clip}/{item.id}": hashlib.sha256(
            json.dumps(
                [
                    item.action.image_0,
                    item.action.image_1,
                    files.prompt(item),
                    names.get((item.clip, item.id)),
                ]
            ).encode()
        ).hexdigest()[:16]
        for item in files.items
    }


def known_items(folder: Path) -> dict[str, str]:
    """The items that a folder was claimed for; none where it is new, or was claimed without noting them."""
    path = folder / NAME
    before = check_object(read_json(path), f"{path}", "settings by name") if path.exists() else {}
    items = before.get(ITEMS)
    return {name: f"{value}" for name, value in items.items()} if isinstance(items, dict) else {}


def claim_items(folder: Path, settings: Mapping[str, object], items: Mapping[str, str]) -> None:
    """Makes a folder that of settings and items, or checks that it is.

    Further items of other annotations are added; those that were known must be as they were.

    Args:
        folder: of frames.
        settings: what makes a frame what it is; `annotations` is the file's hash.
        items: as `item_digests` gives them.

    Raises:
        UserError: the folder was begun with other settings, or an item has changed since.
    """
    path = folder / NAME
    before = check_object(read_json(path), f"{path}", "settings by name") if path.exists() else {}
    known = before.get(ITEMS)
    if not isinstance(known, dict):  # new, or of a version that noted the annotations alone
        claim(folder, dict(settings) if before else {**settings, ITEMS: dict(items)})
        return
    claim(folder, {**settings, ANNOTATIONS: before.get(ANNOTATIONS), ITEMS: known})
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
        write_json(path, {**settings, ITEMS: {name: added[name] for name in in_order(known, items)}})


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
