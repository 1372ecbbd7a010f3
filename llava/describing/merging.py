"""Joins the shards of descriptions; `llava.merge` is the command."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from egogen.annotations import Annotations, check_object, validate
from egogen.errors import UserError
from egogen.files import read_json
from egogen.manifest import NAME
from egogen.walks import shown

Described = dict[tuple[str, str], tuple["DescribedAction", Path]]  # by clip and action, with their shard


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


def join(files: Sequence[Path]) -> Described:
    """Joins shards.

    Raises:
        UserError: one is not of the form clip -> action id -> texts, or an action occurs in two of them.
    """
    joined: Described = {}
    for path in files:
        for clip, actions in check_object(read_json(path), f"{path}", "clips by clip_id").items():
            where = f"{path}: clip {clip!r}"
            for action, entry in check_object(actions, where, "actions by action_id").items():
                if (clip, action) in joined:
                    other = joined[clip, action][1].name
                    raise UserError(f"{where} action {action!r} is in {other} as well")
                joined[clip, action] = (validate(DescribedAction, entry, f"{where}, action {action!r}"), path)
    return joined


def merge(edits: Annotations, described: Described, folder: Path) -> Annotations:
    """Puts the descriptions into the annotations.

    Raises:
        UserError: an action has no description, a description has no action, or the labels differ.
    """
    labels = {(item.clip, item.id): item.action.action for item in edits}
    gaps = [key for key in labels if key not in described]
    if gaps:
        clip, action = gaps[0]
        raise UserError(
            f"{folder}: {len(gaps)} of {len(labels)} actions of {edits.source} have no description, such as "
            f"clip {clip!r} action {action!r}; describe them first"
        )
    for key, (entry, path) in described.items():
        if key not in labels:
            raise UserError(f"{path}: clip {key[0]!r} action {key[1]!r} is not in {edits.source}")
        if entry.original_action != labels[key]:
            raise UserError(
                f"{path}: clip {key[0]!r} action {key[1]!r} was described as {entry.original_action!r}, "
                f"{edits.source} says {labels[key]!r}"
            )
    return edits.with_texts({key: entry.description for key, (entry, _) in described.items()})
