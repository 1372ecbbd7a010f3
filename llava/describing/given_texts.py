"""Texts that are written already, whose features are wanted: edited, curated or published ones.

Two forms of JSON are read: an annotation file that carries them under `llava_forecast_finetune`, and
clip -> action id -> text, where the text may stand under `description` as `llava.describe` writes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from egogen.annotations import Action, Item, check_object, validate
from egogen.errors import UserError, shorten
from egogen.files import read_json
from egogen.layout import DESCRIPTION_KEY
from egogen.reserved import text_fault
from llava.describing.kept_texts import Entry, GivenText, KeptTexts


class WrittenText(BaseModel):
    """An entry as `llava.describe` writes it; of one that a person writes the description is enough."""

    model_config = ConfigDict(strict=True, extra="allow")

    original_action: str | None = Field(default=None, alias="original action")
    description: str


def read_texts(path: Path, items: Sequence[Item], labels: Path) -> KeptTexts:
    """Reads a text for each action; outer spaces go, as they do of what stage 1 writes.

    Args:
        path: the JSON file.
        items: all actions that may be described.
        labels: the file that they are from, for messages.

    Raises:
        UserError: the file is of neither form, or its actions or their labels are not those of the items.
    """
    given = KeptTexts(read_entry, "texts by action_id")
    try:
        given.add(path)
    except UserError:
        read_json(path)  # what is wrong with all of it comes first
        raise
    unlike = given.compare(items)
    if len(unlike.missing):
        item = items[int(unlike.missing[0])]
        raise UserError(
            f"{path}: {len(unlike.missing)} of {len(items)} actions of {labels} have no text, such as "
            f"{place(item.clip, item.id)}; write them, or leave these actions out of {labels}"
        )
    if unlike.strange is not None:
        _, one = given.entry(unlike.strange)
        where = f"{path}: {place(one.clip, one.id)}"
        if unlike.row is None:
            raise UserError(f"{where} is not in {labels}; is this its file?")
        raise UserError(
            f"{where} is a text for the label {shorten(read_entry(one, path).label)}, {labels} says "
            f"{shorten(items[unlike.row].action.action)}"
        )
    return given


def read_entry(given: Entry, path: Path) -> GivenText:
    """The text of one action, without outer spaces.

    Raises:
        UserError: it has none; says which forms there are.
    """
    entry, where = given.value, f"{path}: {place(given.clip, given.id)}"
    if isinstance(entry, str):
        return GivenText(entry.strip(), None)
    found = check_object(entry, where, f"a text, or an object with 'description' or {DESCRIPTION_KEY!r}")
    if "image_0" not in found:
        written = validate(WrittenText, found, where)
        return GivenText(written.description.strip(), written.original_action)
    action = Action.read(found, where)
    if action.llava_forecast_finetune is None:
        raise UserError(
            f"{where}: the field {DESCRIPTION_KEY!r} is missing; python -m llava.merge writes it, or give "
            "clip -> action id -> text"
        )
    return GivenText(action.llava_forecast_finetune.strip(), action.action)


def check_texts(texts: KeptTexts, signs: Sequence[str], path: Path) -> None:
    """Checks that each text can be an answer.

    Args:
        texts: of all actions.
        signs: of the tokenizer (`llava.question.prompts.own_signs`).
        path: the file that they are from, for messages.

    Raises:
        UserError: one is blank or holds signs of the model; says how many.
    """
    first, count = "", 0
    for entry in chain.from_iterable(file.items for file in texts.files):
        text = read_entry(entry, path).text
        if fault := text_fault(text, signs):
            first = first or f"{place(entry.clip, entry.id)}, text {shorten(text)}: {fault}"
            count += 1
    if count:
        raise UserError(f"{path}: {first} ({count} of {len(texts)} texts are so); mend them")


def place(clip: str, action: str) -> str:
    """An action in words."""
    return f"clip {clip!r} action {action!r}"
