"""Curated descriptions as LLaVA conversations: what stage 1 is tuned on (`curation_from_gpt/*.json`)."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from egogen.annotations import ImagePath, validate
from egogen.errors import UserError
from egogen.files import read_json, write_json


class Turn(BaseModel):
    """One message: `from` is `human` or `gpt`."""

    model_config = ConfigDict(strict=True, extra="allow", populate_by_name=True)

    speaker: str = Field(alias="from")
    value: str


class Conversation(BaseModel):
    """A record: an image relative to the train split folder, the turns of person and assistant."""

    model_config = ConfigDict(strict=True, extra="allow")

    id: str | int | None = None
    image: ImagePath | None = None
    conversations: list[Turn]


def read_conversations(path: Path) -> list[Conversation]:
    """Reads a list of LLaVA conversations.

    Raises:
        UserError: the file is not a list of records; names the record's place, what was found and allowed.
    """
    if not path.exists():
        raise UserError(
            f"{path}: no such file; bash scripts/download_dataset.sh fetches the published conversations, "
            "python -m llava.curate makes others"
        )
    raw = read_json(path)
    if not isinstance(raw, list):
        raise UserError(f"{path}: found {type(raw).__name__}, expected a list of conversation records")
    return [validate(Conversation, record, f"{path}: record {index}") for index, record in enumerate(raw)]


def write_conversations(path: Path, records: list[Conversation]) -> None:
    """Writes LLaVA conversations atomically."""
    write_json(path, [record.model_dump(by_alias=True, exclude_unset=True) for record in records])
