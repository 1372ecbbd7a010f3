"""Texts that are written already, whose features are wanted: edited, curated or published ones.

Two forms of JSON are read: an annotation file that carries them under `llava_forecast_finetune`, and
clip -> action id -> text, where the text may stand under `description` as `llava.describe` writes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from egogen.annotations import Action, Item, check_object, validate
from egogen.errors import UserError, shorten
from egogen.files import read_json
from egogen.layout import DESCRIPTION_KEY
from egogen.reserved import text_fault

ActionKey = tuple[str, str]  # clip and action id


class WrittenText(BaseModel):
    """An entry as `llava.describe` writes it; of one that a person writes the description is enough."""

    model_config = ConfigDict(strict=True, extra="allow")

    original_action: str | None = Field(default=None, alias="original action")
    description: str


class GivenText(NamedTuple):
    """A text, and the label that it was written for, where the file says."""

    text: str
    label: str | None


def read_texts(path: Path, items: Sequence[Item], labels: Path) -> dict[ActionKey, str]:
    """Reads a text for each action; outer spaces go, as they do of what stage 1 writes.

    Args:
        path: the JSON file.
        items: all actions that may be described.
        labels: the file that they are from, for messages.

    Raises:
        UserError: the file is of neither form, or its actions or their labels are not those of the items.
    """
    given = {
        (clip, action): read_entry(entry, f"{path}: {place((clip, action))}")
        for clip, actions in check_object(read_json(path), f"{path}", "clips by clip_id").items()
        for action, entry in check_object(actions, f"{path}: clip {clip!r}", "texts by action_id").items()
    }
    wanted = {(item.clip, item.id): item.action.action for item in items}
    if missing := [key for key in wanted if key not in given]:
        raise UserError(
            f"{path}: {len(missing)} of {len(wanted)} actions of {labels} have no text, such as "
            f"{place(missing[0])}; write them, or leave these actions out of {labels}"
        )
    for key, one in given.items():
        if key not in wanted:
            raise UserError(f"{path}: {place(key)} is not in {labels}; is this its file?")
        if one.label not in (None, wanted[key]):
            raise UserError(
                f"{path}: {place(key)} is a text for the label {shorten(one.label)}, {labels} says "
                f"{shorten(wanted[key])}"
            )
    return {key: one.text.strip() for key, one in given.items()}


def read_entry(entry: object, where: str) -> GivenText:
    """The text of one action.

    Raises:
        UserError: it has none; says which forms there are.
    """
    if isinstance(entry, str):
        return GivenText(entry, None)
    found = check_object(entry, where, f"a text, or an object with 'description' or {DESCRIPTION_KEY!r}")
    if "image_0" not in found:
        written = validate(WrittenText, found, where)
        return GivenText(written.description, written.original_action)
    action = Action.read(found, where)
    if action.llava_forecast_finetune is None:
        raise UserError(
            f"{where}: the field {DESCRIPTION_KEY!r} is missing; python -m llava.merge writes it, or give "
            "clip -> action id -> text"
        )
    return GivenText(action.llava_forecast_finetune, action.action)


def check_texts(texts: Mapping[ActionKey, str], signs: Sequence[str], path: Path) -> None:
    """Checks that each text can be an answer.

    Args:
        texts: by clip and action id.
        signs: of the tokenizer (`llava.question.prompts.own_signs`).
        path: the file that they are from, for messages.

    Raises:
        UserError: one is blank or holds signs of the model; says how many.
    """
    faults = [
        f"{place(key)}, text {shorten(text)}: {fault}"
        for key, text in texts.items()
        if (fault := text_fault(text, signs))
    ]
    if faults:
        raise UserError(f"{path}: {faults[0]} ({len(faults)} of {len(texts)} texts are so); mend them")


def place(key: ActionKey) -> str:
    """An action in words."""
    return f"clip {key[0]!r} action {key[1]!r}"
