"""How `llava.describe` keeps what it made: a file a feature, or shards; then the text, which says "done"."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from torch import Tensor, nn
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from egogen.annotations import Item
from egogen.errors import UserError
from egogen.features import TEXT_TOKENS, as_half, is_done, write_feature
from egogen.features.feature_shards import SHARD_ITEMS, Shards, set_damaged_aside, write_shard
from egogen.features.projector import Projector
from egogen.features.rows import RowType
from egogen.features.store import Store, claim_store, made_by
from egogen.files import atomic_folder
from egogen.journal import Row
from egogen.layout import clip_folder, projector_path, shard_path
from llava.checkpoints.published_folder import write_clip
from llava.describing.describing_job import Job
from llava.describing.description_journal import Descriptions
from llava.model import Llava


@dataclass(frozen=True)
class Description:
    """What stage 1 says about one action, and its features on the CPU."""

    text: str
    image_features: Float[Tensor, "p d"]
    text_features: Float[Tensor, "n d"]
    patches: Float[Tensor, "p v"] | None = None  # what the image features were projected from


@runtime_checkable
class Saver(Protocol):
    """Keeps descriptions and features; an action counts as done only when all of it is on disk."""

    def has(self, item: Item) -> bool:
        """Whether an action is done."""
        ...

    def begin(self, model: Llava, processor: CLIPImageProcessorPil) -> None:
        """Takes from the model what is kept once."""
        ...

    def add(self, items: Sequence[Item], made: Sequence[Description]) -> None:
        """Keeps a batch."""
        ...

    def close(self) -> None:
        """Writes what is still in memory."""
        ...


def make_saver(
    store: Store, job: Job, journal: Descriptions, settings: Mapping[str, Any], part: str, row_type: RowType
) -> Saver:
    """The saver for a store; its folders remember the settings.

    Raises:
        UserError: they were made with others.
    """
    if store == "npy":
        for folder in (job.image_features, job.text_features):
            claim_store(folder, settings, "npy")
        return NpySaver(job, journal)
    claim_store(job.image_features, settings, "shards" if store == "compact" else "online", "float16")
    claim_store(job.text_features, settings, "shards", row_type)
    return ShardSaver(job, journal, part, row_type, online=store == "online")


def row(job: Job, item: Item, description: Description) -> Row:
    """The journal's row of an action."""
    return {
        "clip": item.clip,
        "id": item.id,
        "original action": item.action.action,
        "action": job.words(item),
        "description": description.text,
        "feature": job.text_names[item.clip, item.id],
    }


class NpySaver:
    """The published form: a file a feature, after every batch."""

    def __init__(self, job: Job, journal: Descriptions) -> None:
        self.job, self.journal = job, journal

    def files(self, item: Item) -> tuple[Path, Path]:
        """Image and text feature file of an action."""
        image, text = self.job.feature_names(item)
        return self.job.image_features / image, self.job.text_features / text

    def has(self, item: Item) -> bool:
        """Whether the text is written, and both files are there and whole."""
        image, text = self.files(item)
        written = self.journal.has(item, self.job.text_names[item.clip, item.id])
        return written and is_done(image) and is_done(text)

    def begin(self, model: Llava, processor: CLIPImageProcessorPil) -> None:
        """Nothing is kept once."""

    def add(self, items: Sequence[Item], made: Sequence[Description]) -> None:
        """Writes features, then the texts."""
        for item, description in zip(items, made, strict=True):
            image, text = self.files(item)
            try:
                write_feature(image, description.image_features.numpy())
                write_feature(text, description.text_features.numpy())
            except ValueError as error:
                raise not_finite(error) from None
        self.journal.add([row(self.job, *pair) for pair in zip(items, made, strict=True)])

    def close(self) -> None:
        """Nothing is in memory."""


class ShardSaver:
    """Compact and online stores: a shard of each kind whenever enough actions are described, then the texts.

    Args:
        job: names and folders.
        journal: of the texts.
        part: this process's share, which names its shards.
        row_type: of text rows.
        online: image features are not stored; what computes them is.
    """

    def __init__(
        self, job: Job, journal: Descriptions, part: str, row_type: RowType, *, online: bool
    ) -> None:
        self.job, self.journal, self.part, self.row_type = job, journal, part, row_type
        for folder in (job.text_features, job.image_features):
            set_damaged_aside(folder)
        self.texts = Shards(job.text_features)
        self.images = None if online else Shards(job.image_features)
        self.patches: dict[str, np.ndarray] = {}
        self.rows: dict[str, np.ndarray] = {}
        self.done: list[Row] = []

    def has(self, item: Item) -> bool:
        """Whether the text is written and the features are in shards that were there at the start."""
        image, text = self.job.feature_names(item)
        seen = self.images is None or image in self.images
        return seen and text in self.texts and self.journal.has(item, self.job.text_names[item.clip, item.id])

    def begin(self, model: Llava, processor: CLIPImageProcessorPil) -> None:
        """Writes the projector and, for online stores, CLIP, beside where image features would be.

        Raises:
            UserError: the projector is not one Linear.
        """
        linear = model.model.multi_modal_projector
        if not isinstance(linear, nn.Linear):
            raise UserError(
                "--feature-store: this checkpoint's projector has two layers; only npy keeps its features"
            )
        weight, bias = (value.detach().float().cpu().numpy() for value in (linear.weight, linear.bias))
        Projector(weight, bias).write(projector_path(self.job.image_features))
        clip = clip_folder(self.job.image_features)
        if self.images is None and not clip.exists():
            with atomic_folder(clip) as part:
                write_clip(model, processor, part)

    def add(self, items: Sequence[Item], made: Sequence[Description]) -> None:
        """Keeps a batch in memory until a shard is full."""
        for item, one in zip(items, made, strict=True):
            image, text = self.job.feature_names(item)
            try:
                if self.images is not None:
                    assert one.patches is not None
                    self.patches[image] = as_half(one.patches.numpy(), self.images.place / image)
                self.rows[text] = as_half(one.text_features[:TEXT_TOKENS].numpy(), self.texts.place / text)
            except ValueError as error:
                raise not_finite(error) from None
            self.done.append(row(self.job, item, one))
        if len(self.done) >= SHARD_ITEMS:
            self.close()

    def close(self) -> None:
        """Writes what waits: patches, text features, texts."""
        if not self.done:
            return
        images, texts = self.next_shards()
        if self.images is not None:
            write_shard(images, self.patches, made_by(images.parent))
        write_shard(texts, self.rows, made_by(texts.parent), self.row_type)
        self.journal.add(self.done)
        self.patches, self.rows, self.done = {}, {}, []

    def next_shards(self) -> tuple[Path, Path]:
        """Paths for the next two shards of this process."""
        folders = (self.job.image_features, self.texts.place)
        number = next(
            number
            for number in itertools.count()
            if not any(shard_path(folder, self.part, number).exists() for folder in folders)
        )
        return shard_path(folders[0], self.part, number), shard_path(folders[1], self.part, number)


def not_finite(error: ValueError) -> UserError:
    """What a user can do about features that are no numbers."""
    return UserError(f"{error}; is the checkpoint whole? try --dtype bfloat16")
