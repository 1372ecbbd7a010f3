"""How `llava.describe` keeps what it made: a file a feature, or shards; then the text, which says "done"."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress, count

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor, from_numpy, nn
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from egogen.annotations import Item
from egogen.blocks import in_blocks
from egogen.errors import UserError
from egogen.features import TEXT_TOKENS, as_half, fit_tokens, is_done, write_feature
from egogen.features.feature_shards import Shards, set_damaged_aside, write_shard
from egogen.features.projector import Projector
from egogen.features.store import claim_store, made_by
from egogen.features.store_names import SHARD_ITEMS
from egogen.files import atomic_folder
from egogen.journal import Row
from egogen.layout import FEATURE_KINDS, clip_folder, projector_path, shard_path
from egogen.seen_files import SeenFiles
from egogen.stored_items import choose
from egogen.unfinished import Neighbours
from llava.checkpoints.published_folder import write_clip
from llava.describing.described import Descriptions
from llava.describing.describing_job import DescribingJob
from llava.model import Llava

JOURNALS = "journals"
NO_ITEMS = np.empty(0, bool)


@dataclass(frozen=True)
class Description:
    """What stage 1 says about one action, and its features on the CPU."""

    text: str
    image_features: Float[Tensor, "p d"]
    text_features: Float[Tensor, "n d"]
    patches: Float[Tensor, "p v"] | None = None  # what the image features were projected from

    @property
    def padded_text_features(self) -> Float[Tensor, "t d"]:
        """The text features as stage 2 takes them: cut or padded to 77 tokens."""
        return from_numpy(fit_tokens(self.text_features.numpy()))


def row(job: DescribingJob, item: Item, description: Description) -> Row:
    """The journal's row of an action."""
    return {
        "clip": item.clip,
        "id": item.id,
        "original action": item.action.action,
        "action": job.words(item),
        "description": description.text,
        "feature": job.text_names.of(item),
    }


class NpySaver:
    """The published form: a file a feature, after every batch.

    Raises:
        UserError: its folders were made with other settings.
    """

    def __init__(self, job: DescribingJob, journal: Descriptions) -> None:
        self.job, self.journal = job, journal
        for folder in job.feature_folders:
            claim_store(folder, job.settings, "npy")
        self.neighbours = Neighbours(), Neighbours()
        journals = job.options.save_path / JOURNALS
        self.seen = [
            SeenFiles(journals / kind, folder, job.part)
            for kind, folder in zip(FEATURE_KINDS, job.feature_folders, strict=True)
        ]

    def left(self, items: Sequence[Item]) -> Sequence[Item]:
        """Those whose text is not written, or of whose files one is not there and whole.

        Files that are as they were when they were found whole are not opened again.
        """
        done = [self.are_done(block) for block in in_blocks(items)]
        return choose(items, np.flatnonzero(~np.concatenate([NO_ITEMS, *done])))

    def are_done(self, items: Sequence[Item]) -> Bool[np.ndarray, " n"]:
        """Which of some actions are done."""
        done = self.journal.has_each(items, [self.job.text_names.of(item) for item in items])
        written = np.flatnonzero(done)
        names = zip(*map(self.job.feature_names, compress(items, done)), strict=True)
        # Of nothing written there are no names, of neither kind.
        for seen, folder, kind in zip(self.seen, self.job.feature_folders, names, strict=False):
            _, known = seen.unchanged(kind)
            for row in np.flatnonzero(~known):
                if is_done(folder / kind[row]):
                    seen.note(kind[row])
                else:
                    done[written[row]] = False
            seen.flush()
        return done

    def begin(self, model: Llava, processor: CLIPImageProcessorPil) -> None:
        """Nothing is kept once."""

    def add(self, items: Sequence[Item], made: Sequence[Description]) -> None:
        """Writes features, then the texts."""
        for item, description in zip(items, made, strict=True):
            image, text = self.job.feature_files(item)
            for path, neighbours in zip((image, text), self.neighbours, strict=True):
                neighbours.clean(path.parent)
            try:
                write_feature(image, description.image_features.numpy())
                write_feature(text, description.text_features.numpy())
                for seen, name in zip(self.seen, self.job.feature_names(item), strict=True):
                    seen.note(name)
            except UserError:  # a full disk
                raise
            except ValueError as error:
                raise not_finite(error) from None
        self.journal.add([row(self.job, *pair) for pair in zip(items, made, strict=True)])

    def close(self) -> None:
        """Of features nothing is in memory."""
        for seen in self.seen:
            seen.flush()


class ShardSaver:
    """Compact and online stores: a shard of each kind whenever enough actions are described, then the texts.

    Of online stores, image features are not stored; what computes them is.

    Raises:
        UserError: its folders were made with other settings.
    """

    def __init__(self, job: DescribingJob, journal: Descriptions) -> None:
        self.job, self.journal = job, journal
        self.image_place, self.text_place = job.feature_folders
        online = job.options.feature_store == "online"
        claim_store(self.image_place, job.settings, "online" if online else "shards", "float16")
        claim_store(self.text_place, job.settings, "shards", job.options.text_type)
        for folder in job.feature_folders:
            set_damaged_aside(folder)
        self.texts = Shards(self.text_place)
        self.images = None if online else Shards(self.image_place)
        self.patches: dict[str, np.ndarray] = {}
        self.rows: dict[str, np.ndarray] = {}
        self.done: list[Row] = []

    def left(self, items: Sequence[Item]) -> Sequence[Item]:
        """Those whose text is not written, or whose features are in no shard that was there at the start."""
        return choose(items, np.flatnonzero(~np.fromiter(map(self.has, items), bool)))

    def has(self, item: Item) -> bool:
        """Whether an action is done."""
        image, text = self.job.feature_names(item)
        seen = self.images is None or image in self.images
        return seen and text in self.texts and self.journal.has(item, self.job.text_names.of(item))

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
        Projector(weight, bias).write(projector_path(self.image_place))
        clip = clip_folder(self.image_place)
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
                    self.patches[image] = as_half(one.patches.numpy(), self.image_place / image)
                self.rows[text] = as_half(one.text_features[:TEXT_TOKENS].numpy(), self.text_place / text)
            except ValueError as error:
                raise not_finite(error) from None
            self.done.append(row(self.job, item, one))
        if len(self.done) >= SHARD_ITEMS:
            self.close()

    def close(self) -> None:
        """Writes what waits: patches, text features, texts."""
        if not self.done:
            return
        folders = self.job.feature_folders
        pairs = ([shard_path(folder, self.job.part, number) for folder in folders] for number in count())
        images, texts = next(paths for paths in pairs if not any(path.exists() for path in paths))
        if self.images is not None:
            write_shard(images, self.patches, made_by(self.image_place))
        write_shard(texts, self.rows, made_by(self.text_place), self.job.options.text_type)
        self.journal.add(self.done)
        self.patches, self.rows, self.done = {}, {}, []


def not_finite(error: ValueError) -> UserError:
    """What a user can do about features that are no numbers."""
    return UserError(f"{error}; is the checkpoint whole? try --dtype bfloat16")


Saver = NpySaver | ShardSaver  # an action counts as done only when all of it is on disk
