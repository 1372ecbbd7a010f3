"""What made this folder: settings kept beside results, so that two runs are never mixed."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from egogen.annotations import check_object
from egogen.errors import UserError
from egogen.files import read_json, regular, write_json
from egogen.walks import walk_files

NAME = "manifest.json"
SHOWN = 3  # differences inside one setting
HASH = re.compile("[0-9a-f]{64}")
# Files beside a checkpoint's weights that make no difference to what it computes.
OF_TRAINING = {
    "all_results.json",
    "complete.json",
    "generation_config.json",
    "record.json",
    "run.json",
    "train_results.json",
    "trainer_state.json",
    "training_args.bin",
}


def claim(folder: Path, settings: Mapping[str, Any], name: str = NAME) -> None:
    """Writes the settings into a folder, or checks that they equal those of the run that began it.

    Args:
        folder: the folder of results; made if absent.
        settings: JSON values: checkpoint hash, configuration, versions.
        name: file name, where one folder holds several kinds of results.

    Raises:
        UserError: the folder was begun with other settings; names the first that differs.
    """
    if not begun(folder, settings, name):
        write_json(folder / name, dict(settings))


def begun(folder: Path, settings: Mapping[str, Any], name: str = NAME) -> bool:
    """Whether a run has claimed a folder; arguments and errors as of `claim`."""
    path = folder / name
    if not path.exists():
        return False
    before = check_object(read_json(path), f"{path}", "settings by name")
    now = json.loads(json.dumps(dict(settings)))  # as a file gives them back: tuples are lists, keys are text
    for key in dict.fromkeys([*before, *now]):
        if before.get(key) != now.get(key):
            raise UserError(
                f"{path}: the folder was made with {difference(key, before.get(key), now.get(key))}; choose "
                f"another output folder, or delete {folder} to make all of it anew"
            )
    return True


def difference(key: str, before: object, now: object) -> str:
    """How a setting differs, in words; of contents that are known by their hashes alone, that they do.

    Of settings by name, those that differ are told, each as `key.name`.
    """
    if isinstance(before, dict) and isinstance(now, dict):
        names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
        told = [difference(f"{key}.{name}", before.get(name), now.get(name)) for name in names[:SHOWN]]
        more = [f"{len(names) - SHOWN} more"] if len(names) > SHOWN else []
        return " and ".join(told + more) or f"{key} of another form"
    if all(isinstance(value, str) and HASH.fullmatch(value) for value in (before, now)):
        return f"{key} of another content: it has changed since, or another one is named"
    return f"{key} = {before!r}, this run has {now!r}"


def file_hash(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal text."""
    digest = hashlib.sha256()
    with regular(path).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def checkpoint_hash(path: Path) -> str:
    """SHA-256 over a checkpoint file, or over the names and contents of a folder's weights and settings.

    What tells of training alone (logs, states, records) does not count, nor what is hidden. Subfolders count
    where the folder is a diffusers pipeline, which keeps its weights there; elsewhere they are intermediate
    checkpoints.

    Raises:
        UserError: the path does not exist or holds no such file.
    """
    if path.is_file():
        return file_hash(path)
    kinds = {".bin", ".safetensors", ".json", ".model"}
    below = walk_files(path) if (path / "model_index.json").is_file() else sorted(path.glob("*"))
    files = [
        file
        for file in below
        if file.suffix in kinds and file.name not in OF_TRAINING and file.name[0] != "." and file.is_file()
    ]
    if not files:
        raise UserError(f"{path}: no checkpoint here (no .bin, .safetensors or .json file)")
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(path).as_posix()}\0{file_hash(file)}\0".encode())
    return digest.hexdigest()
