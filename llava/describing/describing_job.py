"""What one run of `llava.describe` is to do: actions, their frames, words and features; what decides them."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import accumulate
from operator import attrgetter
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64

from egogen.annotations import Action, Annotations, Item
from egogen.distinct import distinct
from egogen.errors import UserError, shorten
from egogen.frames import FrameStore, open_frames
from egogen.layout import feature_name
from egogen.manifest import checkpoint_hash, file_hash
from egogen.seeds import item_seed
from egogen.shards import Shard, parse_auto, parse_shard, process, take_chunk, take_shard
from egogen.text_names import TextNames, frame_mark
from llava.checkpoints.config_json import patches_across, places, vision_settings
from llava.checkpoints.tokenizer import load_tokenizer
from llava.describing.decode import Sampling
from llava.describing.describe_options import DescribeOptions
from llava.describing.given_seeds import read_seeds
from llava.describing.given_texts import check_texts, read_texts
from llava.describing.kept_texts import KeptTexts
from llava.model import Checkpoint, fast_dtype, pick_device, read_checkpoint
from llava.question.labels import action_words, guess_dataset
from llava.question.prompts import check_length, check_words, is_plain, longest_plain, own_signs


@dataclass(frozen=True)
class DescribingJob:
    """One process's work, as the flags name it."""

    options: DescribeOptions
    everything: Sequence[Item]  # of the whole annotation file
    marks: Int64[np.ndarray, " n"]  # of the frames that are described, of all of these
    items: Sequence[Item]  # of this process, shard or chunk
    kind: str  # of the split: "shard" or "chunk"
    shard: Shard  # which of them this is
    device: torch.device

    @property
    def part(self) -> str:
        """How the files of this process are named."""
        return f"{self.kind}_{self.shard.name}"

    def of(self, shard: Shard) -> DescribingJob:
        """The same for another shard; what is known of the whole file is kept."""
        made = copy(self)
        vars(made).update(items=take_shard(self.everything, *shard), shard=shard)
        return made

    @cached_property
    def frames(self) -> FrameStore:
        """Where frames are read from."""
        return open_frames(self.options.image_dir)

    @cached_property
    def dataset(self) -> str:
        """Whose labels they are."""
        return self.options.dataset or guess_dataset(self.options.action_label)

    @property
    def dtype(self) -> str:
        """Type of the model's weights."""
        if self.options.dtype == "auto":
            # On a CPU 16 bits choose other words where two logits are near (docs/stage1.md).
            generates_on_cpu = self.device.type == "cpu" and not self.options.texts
            return "float32" if generates_on_cpu else fast_dtype(self.device)
        return self.options.dtype or ("float32" if self.device.type == "cpu" else "float16")

    @property
    def sampling(self) -> Sampling:
        """How answers are drawn."""
        temperature = 0.0 if self.options.greedy else self.options.temperature
        return Sampling(temperature, self.options.top_k, self.options.max_new_tokens)

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """The model's folder, found whole; its weights are not read yet."""
        return read_checkpoint(self.options.model_path, self.options.vision_tower)

    @cached_property
    def given(self) -> KeptTexts | None:
        """The texts that are to be followed; None where they are to be written."""
        texts = self.options.texts
        return None if texts is None else read_texts(texts, self.everything, self.options.action_label)

    def texts(self, items: Sequence[Item]) -> list[str] | None:
        """Those of some actions."""
        return None if self.given is None else [*self.given.texts(self.given.find(items))]

    @cached_property
    def given_seeds(self) -> Mapping[tuple[str, str], int] | None:
        """The seeds of the actions' draws, where they are given."""
        return None if self.options.seeds is None else read_seeds(self.options.seeds, self.everything)

    def seed(self, item: Item) -> int:
        """What an action's draws are made from."""
        if self.given_seeds is None:
            return item_seed(self.options.seed, item.clip, item.id)
        return self.given_seeds[item.clip, item.id]

    @cached_property
    def settings(self) -> dict[str, object]:
        """What decides the texts and features; as JSON values."""
        model, options = self.options.model_path, self.options
        folder, tower = self.checkpoint.folder, self.checkpoint.tower.folder
        return {
            "checkpoint": checkpoint_hash(model),
            "base": checkpoint_hash(folder) if self.checkpoint.adapters else None,
            # Of the CLIP folder that it sees with; None if its own weights serve.
            "vision_tower": None if tower == folder else checkpoint_hash(tower),
            "dataset": self.dataset,
            "setting": options.setting,
            "query": options.query,
            "labels": [options.label_cut, options.lemmas],
            "dtype": self.dtype,
            **self.made_by,
        }

    @property
    def made_by(self) -> dict[str, object]:
        """Where the texts come from: chance and how it is used, or a file, for which these change nothing."""
        if self.options.texts:
            most = self.sampling.max_new_tokens
            return {"given_texts": file_hash(self.options.texts), "max_new_tokens": most}
        sampling = asdict(self.sampling)
        if self.options.seeds:
            return {"given_seeds": file_hash(self.options.seeds), "sampling": sampling}
        return {"seed": self.options.seed, "sampling": sampling}

    def image(self, item: Item) -> str:
        """The frame that is described, relative to the image folder."""
        return frame_of(self.options)(item.action)

    def words(self, item: Item) -> str:
        """The action's words in the question."""
        cut, lemmas = self.options.label_cut, self.options.lemmas
        return action_words(item.action.action, self.dataset, cut=cut, lemmas=lemmas)

    @property
    def feature_folders(self) -> tuple[Path, Path]:
        """Folders of image and text features."""
        return self.options.save_image_feature_path, self.options.save_text_feature_path

    def feature_names(self, item: Item) -> tuple[str, str]:
        """Names of an action's image and text feature."""
        return feature_name(self.image(item)), feature_name(self.text_names.of(item))

    def feature_files(self, item: Item) -> tuple[Path, Path]:
        """Image and text feature file of an action, where features are single files."""
        (images, texts), (image, text) = self.feature_folders, self.feature_names(item)
        return images / image, texts / text

    @cached_property
    def text_names(self) -> TextNames:
        """Names of the text features; actions that share a frame have one each (F-S1-10)."""
        return TextNames(self.everything, frame_of(self.options), self.marks)

    def check_texts(self) -> None:
        """Checks that every question can be asked, and has its places in the model; and the given texts.

        Raises:
            UserError: a text is blank, holds signs of the model or is too long; names the action.
        """
        tokenizer, query = load_tokenizer(self.checkpoint.folder), self.options.query
        signs, faults = own_signs(tokenizer), []
        config = self.checkpoint.config
        most = places(config) - patches_across(vision_settings(config)) ** 2 + 1  # tokens, the image as one
        longest = longest_plain(query, signs, most)
        for item in self.items:
            words = self.words(item)
            if len(words) <= longest and is_plain(words) and is_plain(item.action.action):
                continue
            try:
                check_words(words, query, signs, item.action.action)
                check_length(words, query, tokenizer, most)
            except UserError as error:
                said = f"{error}"
                label = "" if said.startswith("label ") else f"label {shorten(item.action.action)}: "
                faults.append(f"clip {item.clip!r} action {item.id!r}, {label}{said}")
        if faults:
            raise UserError(
                f"{self.options.action_label}: {faults[0]} ({len(faults)} of {len(self.items)} actions are "
                "so); mend the labels, or leave these actions out of the file"
            )
        if self.options.texts is not None and self.given is not None:
            check_texts(self.given, signs, self.options.texts)

    def check_names(self, images: int) -> None:
        """Feature files are named by the frame without its suffix: two frames must not share one.

        Args:
            images: how many different frames there are.

        Raises:
            UserError: two frames would write the same image feature.
        """
        if images == distinct(self.marks):
            return  # as nearly always
        owners: dict[str, str] = {}
        for item in self.everything:
            image = self.image(item)
            other = owners.setdefault(feature_name(image), image)
            if other != image:
                raise UserError(
                    f"{image} (clip {item.clip!r}, action {item.id!r}) and {other} would write the same "
                    "image feature; rename one of the two frames"
                )


def read_job(options: DescribeOptions) -> DescribingJob:
    """This process's work; with `--shard auto` that of all processes, of which it takes shards.

    Raises:
        UserError: the annotations, or flags together, are not as they must be.
    """
    frame, images, stems = frame_of(options), array("q"), array("q")

    def look(item: Item) -> None:
        image = frame(item.action)
        images.append(hash(image))
        stems.append(frame_mark(image))

    annotations = Annotations.read(options.action_label, look)
    device = pick_device(options.device, process().local_rank)
    job = DescribingJob(
        options, annotations.items, np.frombuffer(stems, np.int64), *take_part(annotations, options), device
    )
    annotations.of(job.dataset, cut=options.label_cut == "published")
    job.check_names(distinct(np.frombuffer(images, np.int64)))
    job.check_texts()
    _ = job.given_seeds  # read now, and not after the model
    return job


def frame_of(options: DescribeOptions) -> Callable[[Action], str]:
    """What gives the frame of an action that is described, relative to the image folder."""
    return attrgetter("image_0" if options.setting == "forecast" else "image_1")


def take_part(annotations: Annotations, options: DescribeOptions) -> tuple[Sequence[Item], str, Shard]:
    """The actions of this process, shard or chunk; what they are of; and which of them they are."""
    items = annotations.items
    if (count := parse_auto(options.shard)) is not None:
        return items, "shard", Shard(1, count)
    is_named = options.shard is not None or options.num_chunks > 1
    rank, _, world_size = process(is_named)
    if world_size > 1 and is_named:
        raise UserError(
            "--shard i/n, --num-chunks: not under torchrun, whose processes are the shards; --shard auto is"
        )
    if world_size > 1 or options.shard is not None:
        shard = Shard(rank + 1, world_size) if options.shard is None else parse_shard(options.shard)
        return take_shard(items, *shard), "shard", shard
    shard = Shard(options.chunk_idx, options.num_chunks)
    ends = [0, *accumulate(filter(None, annotations.counts))]  # of the clips that have actions
    mine = take_chunk(range(len(ends) - 1), *shard)
    return items[ends[mine[0]] : ends[mine[-1] + 1]] if mine else [], "chunk", shard
