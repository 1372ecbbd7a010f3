"""The manifest of the toy start: what made its files, from which data, their hashes and scores."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import get_args

from pydantic import BaseModel, ConfigDict

from egogen.annotations import JsonObject, check_object, validate
from egogen.errors import UserError
from egogen.files import read_json, write_json
from egogen.layout import FOLDERS, Layout, Split
from egogen.manifest import NAME as SETTINGS
from egogen.manifest import file_hash
from egogen.walks import walk_files

NAME, UNLISTED = "manifest.json", {"manifest.json", "README.md"}
FIRST_LOSSES = 5
MOST_BYTES = 24_000_000  # of all files together
LIBRARIES = ("torch", "diffusers", "transformers", "safetensors", "numpy", "Pillow")


class AssetFile(BaseModel):
    """One file: its size and its hash."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bytes: int
    sha256: str


class LoggedLoss(BaseModel):
    """A line of a training's log."""

    step: int
    loss: float


class AssetManifest(BaseModel):
    """All that the manifest says."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    command: str
    seed: int
    versions: dict[str, str]
    data: JsonObject
    scores: dict[str, JsonObject]
    losses: dict[
        int, float
    ]  # of stage 1's training, by step, at its beginning: the path to compare a rebuilding with
    files: dict[str, AssetFile]


def read_manifest(folder: Path) -> AssetManifest:
    """Reads the manifest of a toy start.

    Raises:
        UserError: there is none, or it is damaged.
    """
    path = folder / NAME
    if not path.is_file():
        raise UserError(
            f"{path}: missing; bash scripts/make_toy_assets.sh makes a toy start and its manifest"
        )
    return validate(AssetManifest, read_json(path), f"{path}")


def files_below(folder: Path) -> Iterator[str]:
    """The files that a manifest lists, by their names below the folder."""
    for path in walk_files(folder):
        name = path.relative_to(folder).as_posix()
        if name not in UNLISTED and not path.name.startswith("."):
            yield name


def verify(folder: Path) -> int:
    """Compares every file with the manifest; returns how many there are.

    Raises:
        UserError: a file is missing, another than the manifest says, or unknown to it; or it lists none.
    """
    listed = read_manifest(folder).files
    if not listed:
        raise UserError(f"{folder / NAME}: lists no files; bash scripts/make_toy_assets.sh makes them")
    for name, wanted in listed.items():
        path = folder / name
        if not path.is_file():
            raise UserError(f"{path}: missing; the manifest lists it: copy it again, or git checkout {path}")
        if path.stat().st_size != wanted.bytes or file_hash(path) != wanted.sha256:
            raise UserError(f"{path}: is not the file of the manifest; copy it again, or git checkout {path}")
    for name in files_below(folder):
        if name not in listed:
            raise UserError(f"{folder / name}: unknown to the manifest; delete it")
    return len(listed)


def table(folder: Path) -> str:
    """The files with their sizes, and the scores."""
    manifest = read_manifest(folder)
    lines = [f"{each.bytes:>10,}  {name}" for name, each in manifest.files.items()]
    lines.append(f"{sum(each.bytes for each in manifest.files.values()):>10,}  bytes in {folder}")
    lines += [f"{name}: {scores}" for name, scores in manifest.scores.items()]
    return "\n".join(lines) + "\n"


def seal(
    folder: Path, data_root: Path, scores: Mapping[str, Path], losses: Path | None, command: str, seed: int
) -> None:
    """Writes the manifest of the files that are there.

    Args:
        folder: the toy start.
        data_root: of the toy world that it was made from.
        scores: `metric.json` files by the name of what was measured.
        losses: `trainer_state.json` of stage 1's training.
        command: what a person types to make all of it.
        seed: of the trainings.

    Raises:
        UserError: the files are too large together, or there are none.
    """
    files = {
        name: AssetFile(bytes=(folder / name).stat().st_size, sha256=file_hash(folder / name))
        for name in files_below(folder)
    }
    size = sum(each.bytes for each in files.values())
    if not 0 < size <= MOST_BYTES:
        raise UserError(f"{folder}: holds {size:,} bytes of weights; expected 1 to {MOST_BYTES:,}")
    manifest = AssetManifest(
        command=command,
        seed=seed,
        versions={"python": platform.python_version(), **dict(versions())},
        data=data_facts(data_root),
        scores={name: check_object(read_json(path), f"{path}", "scores") for name, path in scores.items()},
        losses={} if losses is None else first_losses(losses),
        files=files,
    )
    write_json(folder / NAME, manifest.model_dump())


def first_losses(path: Path) -> dict[int, float]:
    """The losses that a training logged first, by step.

    Raises:
        UserError: the file is not that of a training.
    """
    state = check_object(read_json(path), f"{path}", "the state of a training")
    rows = state.get("log_history", [])[:FIRST_LOSSES]
    logged = [validate(LoggedLoss, row, f"{path}: log_history") for row in rows]
    return {each.step: each.loss for each in logged}


def versions() -> Iterator[tuple[str, str]]:
    """The versions of the libraries that this environment has."""
    for name in LIBRARIES:
        try:
            yield name, version(name)
        except PackageNotFoundError:
            continue


def data_facts(data_root: Path) -> JsonObject:
    """Settings of a toy world, and a hash over its texts: labels, descriptions, and what frames show.

    Raises:
        UserError: it is no toy world.
    """
    world = Layout(data_root, next(iter(FOLDERS))).egogen / SETTINGS
    digest = hashlib.sha256()
    for dataset in FOLDERS:
        layout = Layout(data_root, dataset)
        for path in (*map(layout.annotations, get_args(Split)), layout.metadata, layout.conversations):
            digest.update(f"{path.name}\0{file_hash(path)}\0".encode())
    settings = check_object(read_json(world), f"{world}", "the settings of a toy world")
    return {**settings, "sha256": digest.hexdigest()}
