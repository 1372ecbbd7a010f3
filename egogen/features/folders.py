"""One folder of features, read by name whatever its form: what converting and comparing stand on."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Float

from egogen.errors import UserError
from egogen.features.feature_shards import Shards
from egogen.features.npy import REMEDY, NpyFiles, as_text_feature
from egogen.features.projector import read_projector
from egogen.features.store import form_of
from egogen.layout import FeatureKind, projector_path


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
