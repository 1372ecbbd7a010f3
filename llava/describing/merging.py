"""Joins the shards of descriptions; `llava.merge` is the command."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from egogen.annotations import Annotations, validate
from egogen.errors import UserError
from egogen.files import read_json
from egogen.manifest import NAME
from egogen.walks import shown
from llava.describing.kept_texts import Entry, GivenText, KeptTexts


class DescribedAction(BaseModel):
    """A description as `llava.describe` and the published loop write it."""

    model_config = ConfigDict(strict=True, extra="allow")

    original_action: str = Field(alias="original action")
    description: str


def shard_files(folder: Path) -> list[Path]:
    """The shards of a folder.

    Raises:
        UserError: there are none, or some of the parts that the manifest names are missing.
    """
    files = [file for file in shown(folder.glob("*.json")) if file.name != NAME]
    if not files:
        raise UserError(f"{folder}: no descriptions here; run the describe step first")
    manifest = folder / NAME
    if manifest.exists():
        settings = read_json(manifest)
        kind, count = str(settings.get("split_by", "")), str(settings.get("parts", ""))
        if count.isdecimal():
            expected = [folder / f"{kind}_{index}_of_{count}.json" for index in range(1, int(count) + 1)]
            missing = [path.name for path in expected if not path.exists()]
            if missing:
                raise UserError(
                    f"{folder}: {len(missing)} parts are missing, such as {missing[0]}; describe them first"
                )
            strange = sorted(set(files) - set(expected))
            if strange:
                raise UserError(
                    f"{strange[0]}: not made by the run that {manifest} describes; move it elsewhere"
                )
    return files


def join(files: Sequence[Path]) -> KeptTexts:
    """Joins shards.

    Raises:
        UserError: one is not of the form clip -> action id -> texts, or an action occurs in two of them.
    """
    joined = KeptTexts(read_entry, "actions by action_id", large=-1)
    for path in files:
        before = len(joined)
        try:
            joined.add(path)
        except UserError:
            check_once(joined, before)
            read_json(path)  # what is wrong with all of it comes first
            check_once(joined, len(joined))
            raise
        if (store := joined.files[-1].store) is not None:
            store.file.close()  # there may be thousands
    check_once(joined, len(joined))
    return joined


def read_entry(entry: Entry, path: Path) -> GivenText:
    """The description of an action, and its label.

    Raises:
        UserError: it has none.
    """
    value = entry.value
    if type(value) is dict:  # as nearly all are, which need no closer look
        label, text = value.get("original action"), value.get("description")
        if type(label) is type(text) is str:
            return GivenText(text, label)
    made = validate(DescribedAction, value, f"{path}: clip {entry.clip!r}, action {entry.id!r}")
    return GivenText(made.description, made.original_action)


def check_once(joined: KeptTexts, count: int) -> None:
    """Checks that no action is in two shards.

    Args:
        joined: the shards so far.
        count: how many descriptions to look at, from the first on.

    Raises:
        UserError: names the first that is.
    """
    keys = np.array(joined.keys[:count], np.int64)
    _, first, which = np.unique(keys, return_index=True, return_inverse=True)
    again = np.flatnonzero(first[which] != np.arange(count))
    if len(again):
        (other, _), (path, entry) = (joined.entry(int(place)) for place in (first[which[again[0]]], again[0]))
        raise UserError(f"{path}: clip {entry.clip!r} action {entry.id!r} is in {other.name} as well")


def merge(edits: Annotations, described: KeptTexts, folder: Path) -> Iterator[str]:
    """The descriptions of all actions of the annotations, in their order.

    Raises:
        UserError: an action has no description, a description has no action, or the labels differ.
    """
    unlike = described.compare(edits.items)
    if len(unlike.missing):
        item = edits.items[int(unlike.missing[0])]
        raise UserError(
            f"{folder}: {len(unlike.missing)} of {len(edits)} actions of {edits.source} have no description, "
            f"such as clip {item.clip!r} action {item.id!r}; describe them first"
        )
    if unlike.strange is not None:
        path, entry = described.entry(unlike.strange)
        if unlike.row is None:
            raise UserError(f"{path}: clip {entry.clip!r} action {entry.id!r} is not in {edits.source}")
        label, known = read_entry(entry, path).label, edits.items[unlike.row].action.action
        raise UserError(
            f"{path}: clip {entry.clip!r} action {entry.id!r} was described as {label!r}, "
            f"{edits.source} says {known!r}"
        )
    return described.texts(unlike.places)
