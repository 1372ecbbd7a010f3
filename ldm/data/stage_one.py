"""Stage 1's features of one split, from the store that `features.store` names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Int64
from PIL import Image

from egogen.annotations import Item
from egogen.clip_pixels import ClipPixels
from egogen.features import NpyFiles, as_image_feature, as_text_feature, fit_tokens
from egogen.features.feature_shards import Shards
from egogen.features.store import check_form, check_same_maker
from egogen.layout import find_feature_name, find_text_feature_name
from egogen.text_names import TextNames
from ldm.data.image_features import IMAGE, PATCHES, PIXELS, VISION, VisionFiles
from ldm.networks.shapes import BOTH, Streams

TEXT = "vllm_text"
How = Literal["read", "read_checked", "outline"]  # methods of NpyFiles and Shards


class StageOne:
    """What a sample gets of stage 1, by its item; the frame is the plain one, never mirrored (F-S2-03).

    A compact store gives CLIP's patches and an online one CLIP's input, which
    `ldm.data.image_features.complete` turns into image features on the device of the batch.

    Args:
        store: `npy`, `compact` or `online`.
        images: folder of image features; may be missing if they are not of the streams, as that of texts.
        texts: folder of text features.
        width: d of the features.
        items: all of the split.
        streams: which of the features are read.
        marks: of the items' input frames, where they are known (`egogen.text_names.frame_mark`).

    Raises:
        UserError: a folder holds another store, is damaged, or is of another model or width.
    """

    def __init__(
        self,
        store: str,
        images: Path,
        texts: Path,
        width: int,
        items: Sequence[Item],
        streams: Streams = BOTH,
        marks: Int64[np.ndarray, " n"] | None = None,
    ) -> None:
        self.width = self.image_width = width
        self.names = TextNames(items, attrgetter("image_0"), marks)
        self.images: NpyFiles | Shards | None = None
        self.texts: NpyFiles | Shards | None = None
        self.vision: VisionFiles | None = None
        self.prepare: ClipPixels | None = None
        if streams.image:
            self.open_images(store, images)
        if streams.text:
            self.texts = self.open(store, texts)
        if streams == BOTH and store != "npy":
            check_same_maker(images, texts)

    def open(self, store: str, folder: Path) -> NpyFiles | Shards:
        """A folder of features that are stored."""
        if store == "npy":
            check_form(folder, "npy")
            return NpyFiles(folder)
        return Shards(folder)

    def open_images(self, store: str, images: Path) -> None:
        """Image features, or what they are computed from."""
        if store == "npy":
            self.images = self.open(store, images)
            return
        check_form(images, "online" if store == "online" else "shards")
        self.vision = VisionFiles.of(images, online=store == "online")
        self.image_width = self.vision.patch_width(self.width)
        if store == "online":
            self.prepare = self.vision.preparation()
        else:
            self.images = Shards(images)

    def read(self, item: Item, frame: Callable[[], Image.Image]) -> dict[str, Any]:
        """The features of an item, or what image features are computed from, as its frame."""
        found: dict[str, Any] = {}
        if self.texts is not None:
            found[TEXT] = torch.from_numpy(fit_tokens(self.text(item)))
        if self.vision is not None:
            found[VISION] = self.vision.digest
        if self.prepare is not None:
            found[PIXELS] = torch.from_numpy(self.prepare(frame()))
        elif self.images is not None:
            image = torch.from_numpy(self.image(item))
            found |= {IMAGE: image.float()} if self.vision is None else {PATCHES: image}
        return found

    def check(self, item: Item, full: bool) -> None:
        """Reads what `read` reads of stores, by headers alone unless `full`.

        Raises:
            UserError: it is missing, damaged or of another shape.
        """
        how: How = "read_checked" if full else "outline"
        if self.images is not None:
            self.image(item, how)
        if self.texts is not None:
            self.text(item, how)

    def image(self, item: Item, how: How = "read") -> np.ndarray:
        """Image feature or patches."""
        assert self.images is not None
        name = find_feature_name(item.action.image_0, self.images.__contains__)
        return as_image_feature(getattr(self.images, how)(name), self.images.path(name), self.image_width)

    def text(self, item: Item, how: How = "read") -> np.ndarray:
        """Text feature."""
        assert self.texts is not None
        own, frame = self.names.of(item), item.action.image_0
        name = find_text_feature_name(own, frame, self.texts.__contains__)
        return as_text_feature(getattr(self.texts, how)(name), self.texts.path(name), self.width)
