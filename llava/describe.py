"""Describes how an action is done in the frame before it, and writes the features that stage 2 is guided by.

One text and two feature files an action: the image feature is the projector's output, the text feature one
final-norm state a generated token (`llava.decode`). Resumable: run the same command again and it goes on.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from egogen import cli
from egogen.annotations import Annotations, Item
from egogen.errors import UserError
from egogen.features import write_feature
from egogen.files import write_json
from egogen.layout import feature_path, text_feature_names
from egogen.manifest import checkpoint_hash, claim
from egogen.seeds import item_seed
from egogen.shards import parse_shard, process, take_chunk, take_shard
from llava.decode import Answer, Sampling, answer, to_text
from llava.images import check_images, open_image, pixels
from llava.journal import Journal, Line
from llava.labels import CUTS, Cut, action_words, guess_dataset
from llava.lemmas import LEMMAS, Lemmas
from llava.lora import base_of, is_adapter
from llava.model import Llava, load, pick_device, read_checkpoint
from llava.prompts import QUESTION, prompt_ids
from llava.settings import text_settings

log = logging.getLogger(__name__)

Setting = Literal["forecast", "description"]
CPU_BATCH, MAX_BATCH = 64, 512  # sizes that `--batch-size auto` takes, and at most
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


@dataclass(frozen=True)
class Description:
    """What stage 1 says about one action, and its features on the CPU."""

    text: str
    image_features: Float[Tensor, "p d"]
    text_features: Float[Tensor, "n d"]


def describe(
    model: Llava,
    tokenizer: PreTrainedTokenizerBase,
    image_processor: CLIPImageProcessorPil,
    images: Sequence[Image.Image],
    actions: Sequence[str],
    *,
    seeds: Sequence[int] | None = None,
    query: str = QUESTION,
    sampling: Sampling | None = None,
) -> list[Description]:
    """Describes a batch.

    Args:
        model: the VLLM.
        tokenizer: its tokenizer.
        image_processor: its image processor.
        images: RGB frames.
        actions: words for the question, one a frame (`llava.labels.action_words`).
        seeds: one a frame; equal seeds give equal draws. By default keyed by the action's words.
        query: the question, with `{}` for the action.
        sampling: temperature 0.2, top k 50 and at most 1024 tokens by default, as published.

    Raises:
        UserError: the query has no single `{}`.
    """
    prompts = [prompt_ids(query, action, tokenizer) for action in actions]
    features = project(model, image_processor, images)
    seeds = [item_seed(0, action) for action in actions] if seeds is None else seeds
    answers = answer(model, tokenizer, prompts, features, seeds, sampling or Sampling())
    return [finish(image, given, tokenizer) for image, given in zip(features, answers, strict=True)]


@torch.no_grad()
def project(
    model: Llava, processor: CLIPImageProcessorPil, images: Sequence[Image.Image]
) -> Float[Tensor, "b p d"]:
    """Image features of a batch."""
    return model.model.project(pixels(images, processor).to(model.device))


def finish(image: Float[Tensor, "p d"], given: Answer, tokenizer: PreTrainedTokenizerBase) -> Description:
    """Text and features on the CPU."""
    return Description(to_text(given.tokens, tokenizer), image.float().cpu(), given.states.float().cpu())


@dataclass(frozen=True)
class Job:
    """One command's work, as its flags name it."""

    items: list[Item]  # of the whole annotation file
    image_dir: Path
    image_features: Path
    text_features: Path
    dataset: str
    setting: Setting
    query: str
    seed: int
    sampling: Sampling
    cut: Cut = "published"
    lemmas: Lemmas = "lemminflect"

    def image(self, item: Item) -> str:
        """The frame that is described, relative to the image folder."""
        return item.action.image_0 if self.setting == "forecast" else item.action.image_1

    def words(self, item: Item) -> str:
        """The action's words in the question."""
        return action_words(item.action.action, self.dataset, cut=self.cut, lemmas=self.lemmas)

    def feature_files(self, item: Item) -> tuple[Path, Path]:
        """Image and text feature file of an action."""
        text_name = self.text_names[item.clip, item.id]
        return feature_path(self.image_features, self.image(item)), feature_path(
            self.text_features, text_name
        )

    @cached_property
    def text_names(self) -> dict[tuple[str, str], str]:
        """Names of the text features; actions that share a frame have one each (F-S1-10)."""
        frame = "image_0" if self.setting == "forecast" else "image_1"
        return text_feature_names(self.items, lambda action: getattr(action, frame))

    def check_names(self) -> None:
        """Feature files are named by the frame without its suffix: two frames must not share one.

        Raises:
            UserError: two frames would write the same image feature.
        """
        owners: dict[Path, str] = {}
        for item in self.items:
            image = self.image(item)
            other = owners.setdefault(self.feature_files(item)[0], image)
            if other != image:
                raise UserError(
                    f"{image} (clip {item.clip!r}, action {item.id!r}) and {other} would write the same "
                    "image feature; rename one of the two frames"
                )


def fitting_batch_size(model: Llava, prompt_length: int, sampling: Sampling) -> int:
    """How many rows fit: on a GPU, keys and values of the longest possible answers in 80 % of free memory.

    Args:
        model: the VLLM, on its device.
        prompt_length: tokens of the longest prompt, its image counted as one.
        sampling: tells the longest answer.
    """
    if model.device.type != "cuda":
        return CPU_BATCH
    text = text_settings(model.config)
    heads = int(text.num_key_value_heads or text.num_attention_heads)
    width = heads * text.hidden_size // int(text.num_attention_heads)
    tokens = prompt_length + model.patches + sampling.max_new_tokens
    row = 2 * int(text.num_hidden_layers) * width * tokens * model.dtype.itemsize
    free, _ = torch.cuda.mem_get_info(model.device)
    return max(1, min(MAX_BATCH, int(0.8 * free) // row))


def write_batch(job: Job, items: Sequence[Item], made: Sequence[Description], journal: Journal) -> None:
    """Writes features, then the texts: an action counts as done only when all three are there."""
    lines = []
    for item, description in zip(items, made, strict=True):
        image_file, text_file = job.feature_files(item)
        try:
            write_feature(image_file, description.image_features.numpy())
            write_feature(text_file, description.text_features.numpy())
        except ValueError as error:
            raise UserError(f"{error}; is the checkpoint whole? try --dtype bfloat16") from None
        feature = job.text_names[item.clip, item.id]
        lines.append(Line(item, job.words(item), description.text, feature))
    journal.add(lines)


def run_job(
    job: Job, todo: list[Item], loaded: tuple[Any, ...], journal: Journal, batch_size: int | None
) -> None:
    """Describes the items that are not done yet; without a batch size, as many at a time as fit."""
    model, tokenizer, processor = loaded
    prompts = [prompt_ids(job.query, job.words(item), tokenizer) for item in todo]
    size = batch_size or fitting_batch_size(model, max(map(len, prompts)), job.sampling)
    log.info("batch size: %d", size)
    # Prompts of nearly equal length go together, so that little is padded.
    order = sorted(range(len(todo)), key=lambda place: len(prompts[place]))
    with tqdm(total=len(todo), desc="describe", unit="frame", disable=process().rank > 0) as bar:
        while order:
            items = [todo[place] for place in order[:size]]
            try:
                made = describe(
                    model,
                    tokenizer,
                    processor,
                    [open_image(job.image_dir / job.image(item)) for item in items],
                    [job.words(item) for item in items],
                    seeds=[item_seed(job.seed, item.clip, item.id) for item in items],
                    query=job.query,
                    sampling=job.sampling,
                )
            except torch.OutOfMemoryError:
                if size == 1:
                    raise
                torch.cuda.empty_cache()
                size //= 2
                log.warning("out of GPU memory; going on with batches of %d", size)
                continue
            write_batch(job, items, made, journal)
            order = order[size:]
            bar.update(len(items))


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line; the first ten flags are the reference's."""
    parser = cli.parser("python -m llava.describe", __doc__)
    add = parser.add_argument
    add("--model-path", type=Path, required=True, help="checkpoint folder, published or Hugging Face format")
    add("--image-dir", type=Path, required=True, help="folder that image_0 and image_1 are relative to")
    add("--action-label", type=Path, required=True, help="annotation file with the actions")
    add("--query", default=QUESTION, help="the question; {} stands for the action")
    add("--save-path", type=Path, required=True, help="folder for the descriptions")
    add("--save-image-feature-path", type=Path, required=True, help="folder for image features")
    add("--save-text-feature-path", type=Path, required=True, help="folder for text features")
    add("--seed", type=int, default=42, help="draws depend on it and on the action's id")
    add("--num-chunks", type=int, default=1, help="the published split of clips into contiguous chunks")
    add("--chunk-idx", type=int, default=1, help="which chunk, counted from 1")
    add("--shard", default=None, metavar="I/N", help="every N-th action from the I-th, instead of chunks")
    add(
        "--batch-size", type=batch_size, default=None, metavar="N|auto",
        help="frames at a time; changes no result [auto: what fits the GPU; 64 on a CPU]",
    )  # fmt: skip
    add(
        "--setting",
        choices=["forecast", "description"],
        default="forecast",
        help="describe image_0 or image_1",
    )
    add(
        "--dataset",
        choices=["ego4d", "epickitchen"],
        default=None,
        help="label style; default: from the file's name",
    )
    add(
        "--label-cut", choices=CUTS, default="published",
        help="Ego4D labels: drop the first characters as published, or a tag and the wearer's letter",
    )  # fmt: skip
    add("--lemmas", choices=LEMMAS, default="lemminflect", help="Ego4D labels: whose base forms of verbs")
    add("--temperature", type=float, default=0.2, help="of the draws, above 0")
    add("--top-k", type=int, default=50, help="tokens drawn from")
    add("--greedy", action="store_true", help="take the likeliest token instead of drawing")
    add("--max-new-tokens", type=int, default=1024, help="longest answer")
    add("--vision-tower", type=Path, default=None, help="CLIP folder to use instead of the checkpoint's")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    add("--dtype", choices=DTYPES, default=None, help="default: float16 on a GPU, float32 on the CPU")
    chosen = parser.parse_args(argv)
    for flag in ("max_new_tokens", "top_k", "num_chunks"):
        if getattr(chosen, flag) < 1:
            parser.error(f"--{flag.replace('_', '-')}: found {getattr(chosen, flag)}, expected at least 1")
    if not chosen.temperature > 0:
        parser.error(f"--temperature: found {chosen.temperature}, expected above 0; --greedy draws nothing")
    return chosen


def batch_size(text: str) -> int | None:
    """Reads `--batch-size`; None stands for `auto`."""
    if text == "auto":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"found {text}, expected at least 1, or auto")
    return int(text)


def vision_hash(model: Path, vision_tower: Path | None) -> str | None:
    """Hash of the CLIP folder that a model sees with; None if its own weights serve."""
    folder = base_of(model) if is_adapter(model) else model
    seen_with = read_checkpoint(folder, vision_tower).tower.folder
    return None if seen_with == folder else checkpoint_hash(seen_with)


def take_part(items: Sequence[Item], args: argparse.Namespace) -> tuple[list[Item], str]:
    """The actions of this process, shard or chunk, and the name of its file.

    Raises:
        UserError: the flags do not belong together or are out of range.
    """
    rank, _, world_size = process()
    if world_size > 1:
        if args.shard is not None or args.num_chunks > 1:
            raise UserError("--shard, --num-chunks: not under torchrun, whose processes are the shards")
        return take_shard(items, rank + 1, world_size), f"shard_{rank + 1}_of_{world_size}"
    if args.shard is not None:
        index, count = parse_shard(args.shard)
        return take_shard(items, index, count), f"shard_{index}_of_{count}"
    clips = take_chunk(list(dict.fromkeys(item.clip for item in items)), args.chunk_idx, args.num_chunks)
    mine = set(clips)
    name = f"chunk_{args.chunk_idx}_of_{args.num_chunks}"
    return [item for item in items if item.clip in mine], name


def main(argv: Sequence[str] | None = None) -> None:
    """Describes one shard of a split."""
    args = arguments(argv)
    everything = Annotations.read(args.action_label).items
    items, part = take_part(everything, args)
    job = Job(
        items=everything,
        image_dir=args.image_dir,
        image_features=args.save_image_feature_path,
        text_features=args.save_text_feature_path,
        dataset=args.dataset or guess_dataset(args.action_label),
        setting=args.setting,
        query=args.query,
        seed=args.seed,
        sampling=Sampling(0.0 if args.greedy else args.temperature, args.top_k, args.max_new_tokens),
        cut=args.label_cut,
        lemmas=args.lemmas,
    )
    job.check_names()
    device = pick_device(args.device, process().local_rank)
    dtype = args.dtype or ("float32" if device.type == "cpu" else "float16")
    settings = {
        "checkpoint": checkpoint_hash(args.model_path),
        "base": checkpoint_hash(base_of(args.model_path)) if is_adapter(args.model_path) else None,
        "vision_tower": vision_hash(args.model_path, args.vision_tower),
        "dataset": job.dataset,
        "setting": job.setting,
        "query": job.query,
        "labels": [job.cut, job.lemmas],
        "seed": job.seed,
        "sampling": asdict(job.sampling),
        "dtype": dtype,
    }
    split = {"parts": part.rpartition("_")[2], "split_by": part.partition("_")[0]}
    claim(args.save_path, {**settings, **split})
    for folder in (args.save_image_feature_path, args.save_text_feature_path):
        claim(folder, settings)
    journal = Journal(args.save_path / f"{part}.jsonl")

    def done(item: Item) -> bool:
        written = journal.has(item, job.text_names[item.clip, item.id])
        return written and all(file.exists() for file in job.feature_files(item))

    todo = [item for item in items if not done(item)]
    log.info("%s: %d actions, %d done, %d to do", part, len(items), len(items) - len(todo), len(todo))
    if todo:
        check_images(job.image_dir / job.image(item) for item in todo)
        loaded = load(args.model_path, vision_tower=args.vision_tower, device=device, dtype=DTYPES[dtype])
        run_job(job, todo, loaded, journal, args.batch_size)
    write_json(args.save_path / f"{part}.json", journal.published(items))


if __name__ == "__main__":
    cli.run(main)
