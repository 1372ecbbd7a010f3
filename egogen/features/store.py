"""What a folder of features is, by its manifest: `.npy` files, shards, or what computes them online."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, cast

from egogen.annotations import JsonObject, check_object
from egogen.errors import UserError
from egogen.features.store_names import ROW_TYPES, RowType
from egogen.files import read_json
from egogen.layout import projector_path
from egogen.manifest import NAME, claim, file_hash

Form = Literal["npy", "shards", "online"]  # what one folder holds
STORE_OF = {"npy": "npy", "shards": "compact", "online": "online"}


def read_manifest(folder: Path) -> JsonObject:
    """What made a folder of features; nothing for the published ones, which do not say."""
    path = folder / NAME
    return check_object(read_json(path), f"{path}", "settings by name") if path.exists() else {}


def form_of(folder: Path) -> str:
    """What a folder holds."""
    return str(read_manifest(folder).get("form", "npy"))


def check_form(folder: Path, wanted: Form) -> None:
    """Refuses a folder of another form.

    Raises:
        UserError: there is no such folder, or it holds something else.
    """
    found = form_of(folder)
    if found == wanted:
        return
    make = "make it by llava.describe --feature-store or python -m egogen.features convert"
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder of features; {make}")
    holds = STORE_OF.get(found)
    hint = f"set features.store={holds}" if holds else f"allowed are {', '.join(STORE_OF)}"
    raise UserError(f"{folder}: holds features of the form {found!r}, expected {wanted!r}; {hint}, or {make}")


def row_type_of(folder: Path) -> RowType:
    """How the shards of a folder keep rows.

    Raises:
        UserError: the manifest names another type.
    """
    found = read_manifest(folder).get("row_type")
    if found not in ROW_TYPES:
        raise UserError(f"{folder / NAME}: row_type is {found!r}, allowed are {', '.join(ROW_TYPES)}")
    return cast("RowType", found)


def claim_store(
    folder: Path, settings: Mapping[str, object], form: Form, row_type: RowType | None = None
) -> None:
    """Claims a folder for features of one form; `.npy` folders keep the manifest that they always had.

    Raises:
        UserError: the folder was begun with other settings.
    """
    more = {} if form == "npy" else {"form": form, "row_type": row_type}
    claim(folder, {**settings, **more})


def made_by(folder: Path) -> str:
    """A hash of all that made a folder's features: its manifest and its projector. Each shard carries it."""
    digest = hashlib.sha256(json.dumps(read_manifest(folder), sort_keys=True).encode())
    projector = projector_path(folder)
    if projector.exists():
        digest.update(file_hash(projector).encode())
    return digest.hexdigest()


def check_same_maker(image: Path, text: Path) -> None:
    """Refuses image and text features of two checkpoints, where both folders say which.

    Raises:
        UserError: they differ.
    """
    one, other = (read_manifest(folder).get("checkpoint") for folder in (image, text))
    if one != other and None not in (one, other):
        raise UserError(
            f"{text}: text features of checkpoint {str(other)[:12]}, but image features in {image} are of "
            f"{str(one)[:12]}; describe both with one checkpoint"
        )
