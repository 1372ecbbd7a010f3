"""Seeds of draws that are given action by action: whoever describes many photos as if each were alone."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from egogen.annotations import Item, check_object
from egogen.errors import UserError, shorten
from egogen.files import read_json

MOST = 2**63 - 1


def read_seeds(path: Path, items: Iterable[Item]) -> dict[tuple[str, str], int]:
    """Reads clip -> action id -> seed; further actions are passed over.

    Args:
        path: the JSON file.
        items: the actions that may be described.

    Raises:
        UserError: it is of another form, or an action has no seed from 0 to 2^63 - 1.
    """
    clips = check_object(read_json(path), f"{path}", "clips by clip_id")
    found = {}
    for item in items:
        actions = check_object(clips.get(item.clip, {}), f"{path}: clip {item.clip!r}", "seeds by action_id")
        seed = actions.get(item.id)
        if type(seed) is not int or not 0 <= seed <= MOST:
            raise UserError(
                f"{path}: clip {item.clip!r} action {item.id!r}: the seed is {shorten(seed)}, expected a "
                "whole number from 0 to 2^63 - 1"
            )
        found[item.clip, item.id] = seed
    return found
