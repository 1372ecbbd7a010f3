"""How much disk each store needs for a data set, before any of it is written."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from egogen.annotations import Annotations
from egogen.features.feature_options import FeatureShape
from egogen.features.npy import TEXT_TOKENS
from egogen.table import text_table

HALF, BYTE, SCALE = 2, 1, 4  # bytes of a value, and of a row's scale
NPY_HEADER = 128
SHARD_ENTRY = 150  # a feature's name, place and checksum in a shard's header, about


def count(paths: Iterable[Path]) -> tuple[int, int]:
    """Image features (one a frame) and text features (one an action) of annotation files."""
    files = [Annotations.read(path).items for path in paths]
    return sum(len({item.action.image_0 for item in items}) for items in files), sum(map(len, files))


def sizes(images: int, texts: int, shape: FeatureShape) -> dict[str, tuple[int, int]]:
    """Bytes of image and of text features, by store.

    Online, image features take nothing but CLIP and the projector once for each split.
    """
    kept = min(shape.tokens, TEXT_TOKENS)
    npy_image = shape.patches * shape.width * HALF + NPY_HEADER
    npy_text = shape.tokens * shape.width * HALF + NPY_HEADER
    patches = shape.patches * shape.patch_width * HALF + SHARD_ENTRY
    rows = {
        "float16": kept * shape.width * HALF + SHARD_ENTRY,
        "int8": kept * (shape.width * BYTE + SCALE) + 2 * SHARD_ENTRY,
    }
    stores = {"npy": (images * npy_image, texts * npy_text)}
    for store, image in (("compact", patches), ("online", 0)):
        stores |= {f"{store}, text {kind}": (images * image, texts * row) for kind, row in rows.items()}
    return stores


def table(images: int, texts: int, shape: FeatureShape) -> str:
    """The sizes as text."""
    found = sizes(images, texts, shape).items()
    rows = [(store, image / 1e9, text / 1e9, (image + text) / 1e9) for store, (image, text) in found]
    return (
        f"{images:,} image and {texts:,} text features of width {shape.width}, in GB (10^9 bytes)\n"
        f"{text_table(('store', 'image', 'text', 'total'), rows)}"
        "online: besides, CLIP and the projector for each split, 0.6 GB for ViT-L/14 in float16\n"
    )
