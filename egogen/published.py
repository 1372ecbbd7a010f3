"""Which published file goes where in our layout; tolerant of the folders that it was published in."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import get_args

from egogen.errors import UserError
from egogen.layout import FOLDERS, METRIC_TARGETS, FeatureKind, Layout, Split, features_root

SPLITS: tuple[Split, ...] = get_args(Split)
KIND_WORDS: dict[str, FeatureKind] = {"image": "llava_image", "text": "llava_text"}
SYSTEM_FOLDER = "__MACOSX"  # what macOS adds to archives


def dataset_place(root: Path, name: PurePosixPath) -> Path | None:
    """Where a file of a published data set belongs.

    Args:
        root: the folder that is to hold EgoGen/.
        name: the file's path in the download or in an archive of it.

    Returns:
        The official place of a frame or a JSON file, wherever it was; None for anything else.
    """
    if is_hidden(name):
        return None
    for dataset, folder in FOLDERS.items():
        layout = Layout(root, dataset)
        if folder in name.parts:
            inside = name.parts[name.parts.index(folder) + 1 :]
            if len(inside) > 1 and inside[0] in (*SPLITS, METRIC_TARGETS):
                return layout.folder.joinpath(*inside)
        texts = [*map(layout.annotations, SPLITS), layout.metadata, layout.conversations]
        if place := next((path for path in texts if path.name == name.name), None):
            return place
    return None


def feature_place(root: Path, dataset: str, archive: str, name: PurePosixPath) -> Path | None:
    """Where a file of the published features belongs.

    Args:
        root: the features root.
        dataset: whose features they are.
        archive: the archive's path in the download, which tells what the file's own path does not.
        name: the file's path in the archive: `<any folders>/<split>/<clip>/<action>/<frame>.npy`.

    Returns:
        The feature's place; None for files that are no features.

    Raises:
        UserError: neither path says whether it is an image or a text feature, or of which split.
    """
    if is_hidden(name) or name.suffix != ".npy":
        return None
    at = next((index for index, part in enumerate(name.parts) if part in SPLITS), None)
    folders = name.parts[: at or 0]
    split = name.parts[at] if at is not None else last("(?<![a-z])(train|val)(?![a-z])", archive)
    kind = last("image|text", "/".join((archive, *folders)))
    if split is None or kind is None:
        goal = features_root(root, dataset, "SPLIT", "llava_image")
        raise UserError(
            f"{archive}: paths such as {name} tell no split (train, val) or no kind (image, text) of "
            f"features; unpack it by hand to {goal} and its like"
        )
    inside = name.parts[at + 1 :] if at is not None else name.parts
    return features_root(root, dataset, split, KIND_WORDS[kind]).joinpath(*inside)


def last(pattern: str, text: str) -> str | None:
    """The last match of a pattern in a text, in lower case."""
    found = re.findall(pattern, text.lower())
    return found[-1] if found else None


def is_hidden(name: PurePosixPath) -> bool:
    """Whether a file is the file system's own business."""
    return any(part.startswith(".") or part == SYSTEM_FOLDER for part in name.parts)
