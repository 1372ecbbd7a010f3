"""What made this folder: settings kept beside results, so that two runs are never mixed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from egogen.errors import UserError
from egogen.files import read_json, write_json

NAME = "manifest.json"


def claim(folder: Path, settings: Mapping[str, Any], name: str = NAME) -> None:
    """Writes the settings into a folder, or checks that they equal those of the run that began it.

    Args:
        folder: the folder of results; made if absent.
        settings: JSON values: checkpoint hash, configuration, versions.
        name: file name, where one folder holds several kinds of results.

    Raises:
        UserError: the folder was begun with other settings; names the first that differs.
    """
    path = folder / name
    if not path.exists():
        write_json(path, dict(settings))
        return
    before = read_json(path)
    for key in dict.fromkeys([*before, *settings]):
        if before.get(key) != settings.get(key):
            raise UserError(
                f"{path}: the folder was made with {key} = {before.get(key)!r}, this run has "
                f"{settings.get(key)!r}; choose another output folder or delete this one"
            )


def file_hash(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal text."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def checkpoint_hash(path: Path) -> str:
    """SHA-256 over a checkpoint file, or over the names and contents of a folder's weights and settings.

    Raises:
        UserError: the path does not exist or holds no such file.
    """
    if path.is_file():
        return file_hash(path)
    kinds = {".bin", ".safetensors", ".json", ".model"}
    files = sorted(file for file in path.glob("*") if file.suffix in kinds) if path.is_dir() else []
    if not files:
        raise UserError(f"{path}: no checkpoint here (no .bin, .safetensors or .json file)")
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name}\0{file_hash(file)}\0".encode())
    return digest.hexdigest()
