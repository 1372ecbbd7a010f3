"""Compares two stores of features, or reads one through: errors by kind, missing features, damaged shards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float

from egogen.errors import UserError
from egogen.features.difference import Difference
from egogen.features.feature_shards import FeatureFolder, Shards, read_difference
from egogen.features.npy import TEXT_TOKENS
from egogen.features.store import form_of, read_manifest
from egogen.hints import hint
from egogen.layout import FeatureKind, feature_folders
from egogen.progress import Progress


@dataclass
class FolderComparison:
    """What was found in one folder of two stores, or of one."""

    folder: Path  # below the stores' roots
    online: bool = False  # one of the stores computes these features, and has none
    read: int = 0
    difference: Difference = field(default_factory=Difference)
    problems: list[str] = field(default_factory=list)  # missing and damaged features and shards, a line each


def compare(one: Path, other: Path | None = None, items: int | None = None) -> Iterator[FolderComparison]:
    """Goes through the folders of one store, and through the same ones of another.

    Args:
        one: the store whose features the other's stand for.
        other: the second store; without it the first is read through, and differences are those that its
            writer measured.
        items: at most so many features of a folder, evenly spread; all by default.

    Raises:
        UserError: the stores have no folder in common.
    """
    folders = [feature_folders(root) for root in (one, other) if root is not None]
    common = [found for found in folders[0] if found in folders[-1]]
    if not common:
        alike = f" as in {other}" if other else ""
        raise UserError(f"{one}: no folder llava_image or llava_text{alike}{hint(one)}")
    for path, kind in common:
        yield compare_folder([root / path for root in (one, other) if root is not None], kind, path, items)
    for path, _ in sorted(set(folders[0]) ^ set(folders[-1])):
        yield FolderComparison(path, problems=[f"{path}: is in one of the stores alone"])


def compare_folder(
    places: Sequence[Path], kind: FeatureKind, path: Path, items: int | None
) -> FolderComparison:
    """Compares one folder of both stores, or reads through that of one."""
    found = FolderComparison(path)
    if "online" in map(form_of, places):
        return FolderComparison(path, online=True)
    stores = [FeatureFolder(place, kind, tolerant=True) for place in places]
    found.problems += [problem for store in stores for problem in problems_of(store)]
    names = [set(store.names) for store in stores]
    for store, here, there in zip(stores, names, reversed(names), strict=True):
        missing = sorted(there - here)
        if missing:
            found.problems.append(f"{store.place}: lacks {len(missing)} features, the first is {missing[0]}")
    common = sorted(set.intersection(*names))
    if not common and not found.problems:
        found.problems.append(f"{places[-1]}: holds no features")
    step = max(1, len(common) // items) if items else 1
    for name in Progress(common[::step], desc=f"{path}", unit="feature"):
        try:
            features = [cut_text(store.features(name), kind) for store in stores]
            if features[0].shape != features[-1].shape:
                raise UserError(f"{name}: shapes are {features[0].shape} and {features[-1].shape}")
        except UserError as error:
            found.problems.append(str(error))
            continue
        found.difference += Difference.of(features[-1], features[0])
        found.read += 1
    if len(stores) == 1 and isinstance(shards := stores[0].files, Shards):
        known = [read_difference(shard) for shard in set(shards.shard_of.values())]
        found.difference = sum(known, Difference())
    return found


def problems_of(store: FeatureFolder) -> list[str]:
    """Damaged shards, and features that are not there though the manifest counts them."""
    damaged = store.files.problems if isinstance(store.files, Shards) else []
    wanted = read_manifest(store.place).get("features", len(store.names))
    short = f"{store.place}: holds {len(store.names)} of {wanted} features; convert again to go on"
    return damaged if len(store.names) == wanted else [*damaged, short]


def cut_text(values: Float[np.ndarray, "n d"], kind: FeatureKind) -> Float[np.ndarray, "m d"]:
    """A text feature as far as stage 2 reads it; image features whole."""
    return values[:TEXT_TOKENS] if kind == "llava_text" else values
