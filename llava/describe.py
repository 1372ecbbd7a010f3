"""Describes how an action is done in the frame before it, and writes the features that stage 2 is guided by.

One text and two features an action: the image feature is the projector's output, the text feature one
final-norm state a generated token (`llava.describing.decode`). Resumable: run the same command again.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from egogen import cli
from egogen.annotations import Annotations, Item
from egogen.disk import writing
from egogen.errors import UserError
from egogen.files import clean_parts, write_json
from egogen.locks import hold
from egogen.manifest import checkpoint_hash, claim
from egogen.seeds import item_seed
from egogen.shards import parse_shard, process, take_chunk, take_shard
from llava.checkpoints.adapters import base_of, is_adapter
from llava.checkpoints.config_json import text_settings
from llava.describing.decode import Answer, Sampling, answer, to_text
from llava.describing.describe_options import DescribeOptions
from llava.describing.describing_job import Job
from llava.describing.description_journal import Descriptions
from llava.describing.saving import Description, Saver, make_saver
from llava.images import check_images, open_image, pixels
from llava.model import Llava, load, pick_device, read_checkpoint
from llava.question.labels import guess_dataset
from llava.question.prompts import QUESTION, prompt_ids

log = logging.getLogger(__name__)

Loaded = tuple[Llava, PreTrainedTokenizerBase, CLIPImageProcessorPil]
CPU_BATCH, MAX_BATCH = 64, 512  # sizes that `--batch-size auto` takes, and at most
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


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
        actions: words for the question, one a frame (`llava.question.labels.action_words`).
        seeds: one a frame; equal seeds give equal draws. By default keyed by the action's words.
        query: the question, with `{}` for the action.
        sampling: temperature 0.2, top k 50 and at most 1024 tokens by default, as published.

    Raises:
        UserError: the query has no single `{}`.
    """
    prompts = [prompt_ids(query, action, tokenizer) for action in actions]
    patches, features = look(model, image_processor, images)
    seeds = [item_seed(0, action) for action in actions] if seeds is None else seeds
    answers = answer(model, tokenizer, prompts, features, seeds, sampling or Sampling())
    return [
        finish(image, given, tokenizer, seen)
        for image, given, seen in zip(features, answers, patches, strict=True)
    ]


@torch.no_grad()
def look(
    model: Llava, processor: CLIPImageProcessorPil, images: Sequence[Image.Image]
) -> tuple[Float[Tensor, "b p v"], Float[Tensor, "b p d"]]:
    """CLIP's patches and the image features of a batch."""
    patches = model.model.see(pixels(images, processor).to(model.device))
    return patches, model.model.multi_modal_projector(patches)


def project(
    model: Llava, processor: CLIPImageProcessorPil, images: Sequence[Image.Image]
) -> Float[Tensor, "b p d"]:
    """Image features of a batch."""
    return look(model, processor, images)[1]


def finish(
    image: Float[Tensor, "p d"],
    given: Answer,
    tokenizer: PreTrainedTokenizerBase,
    patches: Float[Tensor, "p v"],
) -> Description:
    """Text and features on the CPU."""
    text = to_text(given.tokens, tokenizer)
    return Description(text, image.float().cpu(), given.states.float().cpu(), patches.float().cpu())


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


def run_job(job: Job, todo: list[Item], loaded: Loaded, saver: Saver, batch_size: int | None) -> None:
    """Describes the items that are not done yet; without a batch size, as many at a time as fit."""
    model, tokenizer, processor = loaded
    saver.begin(model, processor)
    prompts = [prompt_ids(job.query, job.words(item), tokenizer) for item in todo]
    size = batch_size or fitting_batch_size(model, max(map(len, prompts)), job.sampling)
    log.info("batch size: %d", size)
    # Prompts of nearly equal length go together, so that little is padded.
    order = sorted(range(len(todo)), key=lambda place: len(prompts[place]))
    with (
        closing(saver),
        tqdm(total=len(todo), desc="describe", unit="frame", disable=process().rank > 0) as bar,
    ):
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
            saver.add(items, made)
            order = order[size:]
            bar.update(len(items))


def vision_hash(model: Path, vision_tower: Path | None) -> str | None:
    """Hash of the CLIP folder that a model sees with; None if its own weights serve."""
    folder = base_of(model) if is_adapter(model) else model
    seen_with = read_checkpoint(folder, vision_tower).tower.folder
    return None if seen_with == folder else checkpoint_hash(seen_with)


def take_part(items: Sequence[Item], shard: str | None, chunk: int, chunks: int) -> tuple[list[Item], str]:
    """The actions of this process, shard or chunk, and the name of its file.

    Raises:
        UserError: the flags do not belong together or are out of range.
    """
    rank, _, world_size = process()
    if world_size > 1:
        if shard is not None or chunks > 1:
            raise UserError("--shard, --num-chunks: not under torchrun, whose processes are the shards")
        return take_shard(items, rank + 1, world_size), f"shard_{rank + 1}_of_{world_size}"
    if shard is not None:
        index, count = parse_shard(shard)
        return take_shard(items, index, count), f"shard_{index}_of_{count}"
    clips = take_chunk(list(dict.fromkeys(item.clip for item in items)), chunk, chunks)
    mine = set(clips)
    name = f"chunk_{chunk}_of_{chunks}"
    return [item for item in items if item.clip in mine], name


def main(argv: Sequence[str] | None = None) -> None:
    """Describes one shard of a split."""
    args = cli.options(DescribeOptions, argv, "python -m llava.describe", __doc__)
    everything = Annotations.read(args.action_label).items
    items, part = take_part(everything, args.shard, args.chunk_idx, args.num_chunks)
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
    lines = args.save_path / f"{part}.jsonl"
    with hold(lines, "describing"), writing(args.save_path):
        for folder in (args.save_path, job.image_features, job.text_features):
            clean_parts(folder)
        journal = Descriptions(lines)
        saver = make_saver(args.feature_store, job, journal, settings, part, args.text_type)
        todo = [item for item in items if not saver.has(item)]
        log.info("%s: %d actions, %d done, %d to do", part, len(items), len(items) - len(todo), len(todo))
        if todo:
            check_images(job.image_dir / job.image(item) for item in todo)
            loaded = load(args.model_path, vision_tower=args.vision_tower, device=device, dtype=DTYPES[dtype])
            run_job(job, todo, loaded, saver, args.batch_size)
        write_json(args.save_path / f"{part}.json", journal.published(items))


if __name__ == "__main__":
    cli.run(main)
