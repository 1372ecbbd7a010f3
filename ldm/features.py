"""Stage 1's features of one split, from the store that `features.store` names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from egogen.annotations import Item
from egogen.features import NpyFiles, as_image_feature, as_text_feature, fit_tokens
from egogen.features.shards import Shards
from egogen.features.store import check_form, check_same_maker
from egogen.layout import find_feature_name, find_text_feature_name, text_feature_names
from egogen.vision import ClipPixels
from ldm.vision import IMAGE, PATCHES, PIXELS, VISION, VisionFiles

TEXT = "vllm_text"
How = Literal["read", "read_checked", "outline"]  # methods of NpyFiles and Shards


class StageOne:
    """What a sample gets of stage 1, by its item; the frame is the plain one, never mirrored (F-S2-03).

    A compact store gives CLIP's patches and an online one CLIP's input, which `ldm.vision.complete` turns
    into image features on the device of the batch.

    Args:
        store: `npy`, `compact` or `online`.
        images: folder of image features.
        texts: folder of text features.
        width: d of the features.
        items: all of the split.

    Raises:
        UserError: a folder holds another store, is damaged, or is of another model or width.
    """

    def __init__(self, store: str, images: Path, texts: Path, width: int, items: Sequence[Item]) -> None:
        self.width = self.image_width = width
        self.names = text_feature_names(items, lambda action: action.image_0)
        self.images: NpyFiles | Shards | None = None
        self.texts: NpyFiles | Shards
        self.vision: VisionFiles | None = None
        self.prepare: ClipPixels | None = None
        if store == "npy":
            for folder in (images, texts):
                check_form(folder, "npy")
            self.images, self.texts = NpyFiles(images), NpyFiles(texts)
            return
        check_form(images, "online" if store == "online" else "shards")
        self.texts = Shards(texts)
        check_same_maker(images, texts)
        self.vision = VisionFiles.of(images, online=store == "online")
        self.image_width = self.vision.patch_width(width)
        if store == "online":
            self.prepare = self.vision.preparation()
        else:
            self.images = Shards(images)

    def read(self, item: Item, frame: Callable[[], Image.Image]) -> dict[str, Any]:
        """The features of an item, or what image features are computed from.

        Args:
            item: of the split.
            frame: reads its source frame, which an online store needs.
        """
        text = {TEXT: torch.from_numpy(fit_tokens(self.text(item)))}
        if self.vision is None:
            return {**text, IMAGE: torch.from_numpy(self.image(item)).float()}
        if self.prepare is None:
            seen = {PATCHES: torch.from_numpy(self.image(item))}
        else:
            seen = {PIXELS: torch.from_numpy(self.prepare(frame()))}
        return {**text, **seen, VISION: self.vision.digest}

    def check(self, item: Item, full: bool) -> None:
        """Reads what `read` reads of stores, by headers alone unless `full`.

        Raises:
            UserError: it is missing, damaged or of another shape.
        """
        how: How = "read_checked" if full else "outline"
        if self.images is not None:
            self.image(item, how)
        self.text(item, how)

    def image(self, item: Item, how: How = "read") -> np.ndarray:
        """Image feature or patches."""
        assert self.images is not None
        name = find_feature_name(item.action.image_0, self.images.__contains__)
        return as_image_feature(getattr(self.images, how)(name), self.images.path(name), self.image_width)

    def text(self, item: Item, how: How = "read") -> np.ndarray:
        """Text feature."""
        own, frame = self.names[item.clip, item.id], item.action.image_0
        name = find_text_feature_name(own, frame, self.texts.__contains__)
        return as_text_feature(getattr(self.texts, how)(name), self.texts.path(name), self.width)
