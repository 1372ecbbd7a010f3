"""Features in shards: safetensors files whose header is the index, read at random through memory maps.

A shard holds `rows/<name>`, and `scale/<name>` where rows have 8 bits; names are those of the `.npy` files.
Its metadata say what made it, how far rounding moved its features, and a checksum of each. The same features
give the same bytes.
"""

from __future__ import annotations

import json
import logging
import zlib
from collections.abc import Mapping
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TypedDict

import numpy as np
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from egogen.errors import UserError
from egogen.features.difference import Difference
from egogen.features.npy import REMEDY, NpyFiles, as_text_feature
from egogen.features.projector import read_projector
from egogen.features.rows import decode, encode
from egogen.features.store import check_form, form_of, made_by, row_type_of
from egogen.features.store_names import RowType
from egogen.files import atomic_open, parse_json, regular
from egogen.hints import hint
from egogen.layout import FeatureKind, projector_path, shard_paths

log = logging.getLogger(__name__)

# What a shard keeps of a feature, by the type of its rows.
ROW_ARRAYS: dict[RowType, dict[str, type[np.generic]]] = {
    "float16": {"rows": np.float16},
    "int8": {"rows": np.int8, "scale": np.float32},
}
FACTS = "egogen"  # the one key of a shard's metadata: several would be written in any order


class ShardFacts(TypedDict):
    """What a shard says of itself."""

    made_by: str
    difference: Difference
    crc32: dict[str, str]


def write_shard(
    path: Path,
    features: Mapping[str, np.ndarray],
    maker: str,
    row_type: RowType = "float16",
    difference: Difference | None = None,
) -> Difference:
    """Writes features atomically into one file.

    Args:
        path: by `egogen.layout.shard_path`.
        features: by name.
        maker: what `made_by` says of the folder.
        row_type: how rows are kept.
        difference: of these features from what they stand for; by default that of the kept rows from them.

    Returns:
        The difference, which the shard remembers.

    Raises:
        ValueError: a feature is not two-dimensional, or a value does not fit float16.
    """
    arrays: dict[str, np.ndarray] = {}
    checksums: dict[str, str] = {}
    rounding = Difference()
    for name, values in features.items():
        kept = encode(values, row_type, f"{path}: {name}")
        arrays |= {f"{part}/{name}": np.ascontiguousarray(array) for part, array in kept.items()}
        checksums[name] = checksum(kept)
        if difference is None:
            rounding += Difference.of(decode(kept.__getitem__, row_type), values)
    facts = {"made_by": maker, "difference": asdict(difference or rounding), "crc32": checksums}
    with atomic_open(path) as file:
        file.write(save(arrays, {FACTS: json.dumps(facts)}))
    return difference or rounding


def checksum(kept: Mapping[str, np.ndarray]) -> str:
    """CRC-32 over the stored arrays of one feature."""
    value = 0
    for array in kept.values():
        value = zlib.crc32(np.ascontiguousarray(array).data.cast("B"), value)
    return f"{value:08x}"


def open_shard(path: Path) -> safe_open:
    """Maps a shard into memory and reads its header, which tells a file that was cut off.

    Raises:
        UserError: it is damaged.
    """
    try:
        return safe_open(regular(path), "np")
    except (SafetensorError, OSError) as error:
        raise damaged(path, str(error)) from None


def facts_of(shard: safe_open, path: Path) -> ShardFacts:
    """What a shard says of itself.

    Raises:
        UserError: it says nothing.
    """
    try:
        facts = parse_json((shard.metadata() or {})[FACTS], f"{path}")
        if not isinstance(facts["crc32"], dict) or not all(map(is_number, facts["difference"].values())):
            raise TypeError
        return {
            "made_by": facts["made_by"],
            "crc32": facts["crc32"],
            "difference": Difference(**facts["difference"]),
        }
    except (KeyError, TypeError, AttributeError, UserError):
        raise damaged(path, "it does not say what made it") from None


def is_number(value: object) -> bool:
    """Whether a value of JSON is a number."""
    return isinstance(value, int | float)


def read_difference(path: Path) -> Difference:
    """How far a shard's features are from what they stand for, as its writer measured.

    Raises:
        UserError: the shard is damaged.
    """
    return facts_of(open_shard(path), path)["difference"]


def damaged(path: Path, reason: str) -> UserError:
    """The error that names a damaged shard."""
    return UserError(f"{path}: damaged shard ({reason}); delete it and run what wrote it again")


def set_damaged_aside(folder: Path) -> None:
    """Renames shards that are empty or cut off, so that their features are made anew."""
    for path in shard_paths(folder):
        try:
            open_shard(path)
        except UserError:
            log.warning("%s: damaged; it is renamed to .damaged, and its features are made anew", path)
            path.replace(path.with_suffix(".damaged"))


class Shards:
    """The features in a folder's shards, by name. It may be copied to loader workers: each maps files itself.

    A feature that is in two shards, since a run was killed between shard and text, is taken from the later.

    Args:
        folder: with a manifest and shards.
        tolerant: damaged shards are noted in `problems` and left out.

    Raises:
        UserError: no shards here, a damaged one, or one that something else made.
    """

    def __init__(self, folder: Path, tolerant: bool = False) -> None:
        check_form(folder, "shards")
        self.place = folder
        self.row_type = row_type_of(folder)
        self.handles: dict[Path, safe_open] = {}
        self.shard_of: dict[str, Path] = {}
        self.problems: list[str] = []
        maker = made_by(folder)
        for path in shard_paths(folder):
            try:
                self.add(path, maker)
            except UserError as error:
                self.problems.append(str(error))
        if self.problems and not tolerant:
            others = f" (and {len(self.problems) - 1} more such shards)" if self.problems[1:] else ""
            raise UserError(f"{self.problems[0]}{others}")

    def add(self, path: Path, maker: str) -> None:
        """Takes a shard into the index.

        Raises:
            UserError: it is damaged, or of another run.
        """
        handle = open_shard(path)
        if facts_of(handle, path)["made_by"] != maker:
            raise UserError(
                f"{path}: not made with the manifest.json and projector that are beside it; keep the "
                "shards of each run, and its projector, in a folder of their own"
            )
        self.handles[path] = handle
        names = (key.removeprefix("rows/") for key in handle.keys() if key.startswith("rows/"))  # noqa: SIM118 - no dict
        self.shard_of.update(dict.fromkeys(names, path))

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "handles": {}}  # maps are of a process

    def __contains__(self, name: object) -> bool:
        return name in self.shard_of

    @property
    def names(self) -> list[str]:
        """Names of all features, in order."""
        return sorted(self.shard_of)

    def handle(self, path: Path) -> safe_open:
        """A shard of this folder, mapped once a process."""
        if path not in self.handles:
            self.handles[path] = open_shard(path)
        return self.handles[path]

    def shard(self, name: str) -> Path:
        """The shard that holds a feature.

        Raises:
            UserError: none does.
        """
        if name not in self.shard_of:
            raise UserError(
                f"{self.place}: no shard holds the feature {name!r}"
                f"{hint(self.place / name) or '; run the step that writes this split'}"
            )
        return self.shard_of[name]

    def path(self, name: str) -> Path:
        """Shard and name of a feature, for messages."""
        return self.shard(name) / name

    def read(self, name: str) -> Float[np.ndarray, "n d"]:
        """A feature: float16, or float32 where rows are kept in 8 bits."""
        return decode(self.kept(name).__getitem__, self.row_type)

    def kept(self, name: str) -> dict[str, np.ndarray]:
        """The stored arrays of a feature.

        Raises:
            UserError: one is missing or of another type or shape.
        """
        path = self.shard(name)
        handle = self.handle(path)
        types = ROW_ARRAYS[self.row_type]
        try:
            found = {part: handle.get_tensor(f"{part}/{name}") for part in types}
        except (SafetensorError, TypeError, ValueError) as error:  # NumPy lacks some types
            raise damaged(path, str(error)) from None
        rows = found["rows"]
        fitting = rows.ndim == 2 and all(found[part].dtype == kind for part, kind in types.items())
        if not fitting or ("scale" in found and found["scale"].shape != rows.shape[:1]):
            shapes = ", ".join(f"{part} {array.dtype} {array.shape}" for part, array in found.items())
            raise damaged(path, f"{name!r} is {shapes}")
        return found

    def read_checked(self, name: str) -> Float[np.ndarray, "n d"]:
        """The same, compared with its checksum.

        Raises:
            UserError: its bytes have changed since they were written.
        """
        path, kept = self.shard(name), self.kept(name)
        if facts_of(self.handle(path), path)["crc32"].get(name) != checksum(kept):
            raise damaged(path, f"the bytes of {name!r} have changed")
        return decode(kept.__getitem__, self.row_type)

    def outline(self, name: str) -> Float[np.ndarray, "n d"]:
        """Zeros of a feature's shape, by the index alone."""
        shape = self.handle(self.shard(name)).get_slice(f"rows/{name}").get_shape()
        return np.broadcast_to(np.float16(0), shape)


class FeatureFolder:
    """The stored features of one kind and split, each checked when it is read.

    Args:
        place: a folder of `.npy` files or of shards.
        kind: `llava_image` or `llava_text`.
        tolerant: damaged shards are noted in `files.problems` and left out.

    Raises:
        UserError: it holds features of neither form.
    """

    def __init__(self, place: Path, kind: FeatureKind, tolerant: bool = False) -> None:
        self.place, self.kind, self.form = place, kind, form_of(place)
        if self.form == "online":
            raise UserError(f"{place}: stores no features, they are computed online; describe the split anew")
        self.files = NpyFiles(place) if self.form == "npy" else Shards(place, tolerant)
        patches = self.form == "shards" and kind == "llava_image"
        self.projector = read_projector(projector_path(place)) if patches else None

    @cached_property
    def names(self) -> list[str]:
        """Names of all features, in order."""
        return self.files.names

    def stored(self, name: str) -> Float[np.ndarray, "n w"]:
        """What is stored of a feature: patches in shards of image features, else the feature itself.

        Raises:
            UserError: it is missing or damaged.
        """
        values, path = self.files.read_checked(name), self.files.path(name)
        if self.kind == "llava_text":
            return as_text_feature(values, path, len(values) if values.ndim == 1 else None)
        if values.ndim != 2:
            raise UserError(f"{path}: image features are {values.shape}, expected (patches, d); {REMEDY}")
        return values

    def features(self, name: str) -> Float[np.ndarray, "n d"]:
        """The feature itself, float16 or float32."""
        values = self.stored(name)
        return values if self.projector is None else self.projector.features(values)
