"""Describes batches of frames: as many at a time as fit, and what is made goes to the saver at once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, closing
from functools import partial

import numpy as np
import torch
from jaxtyping import Int64
from PIL import Image
from transformers import PreTrainedTokenizerBase
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from egogen.annotations import Item
from egogen.blocks import in_blocks
from egogen.errors import UserError
from egogen.files import clean_parts
from egogen.frames import check_frames
from egogen.locks import hold
from egogen.progress import Progress
from egogen.reserved import text_fault
from egogen.seeds import item_seed
from egogen.shard_claims import Work
from egogen.shards import process
from egogen.unfinished import PARTS, clean_near
from llava.checkpoints.clip_tower import pixels
from llava.checkpoints.config_json import places, text_settings
from llava.describing.decode import Sampling, answer, follow, to_text
from llava.describing.described import Descriptions
from llava.describing.describing_job import DescribingJob
from llava.describing.saving import Description, NpySaver, Saver, ShardSaver
from llava.model import Llava
from llava.question.labels import QUESTION
from llava.question.prompts import answer_ids, check_words, own_signs, prompt_ids

log = logging.getLogger(__name__)

Loaded = tuple[Llava, PreTrainedTokenizerBase, CLIPImageProcessorPil]
CPU_BATCH, MAX_BATCH = 64, 512  # sizes that `--batch-size auto` takes, and at most


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
    texts: Sequence[str] | None = None,
    on_texts: Callable[[list[str]], None] | None = None,
) -> list[Description]:
    """Describes a batch, or makes the features of texts that are given.

    Args:
        model: the VLLM.
        tokenizer: its tokenizer.
        image_processor: its image processor.
        images: RGB frames.
        actions: words for the question, one a frame (`llava.question.labels.action_words`).
        seeds: one a frame; equal seeds give equal draws. By default keyed by the action's words.
        query: the question, with `{}` for the action.
        sampling: temperature 0.2, top k 50 and at most 1024 tokens by default, as published.
        texts: what the model is taken to have answered, one a frame: nothing is drawn, one pass makes the
            features. A longer one than the most tokens is cut there, as its generation would have been.
        on_texts: is called at each token with what is written so far; what it raises ends the writing.

    Raises:
        UserError: the numbers of images, actions, seeds and texts differ or are 0, a text is blank or holds
            signs of the model, or the query has no single `{}`.
    """
    seeds = [item_seed(0, action) for action in actions] if seeds is None else seeds
    counts = {"images": len(images), "actions": len(actions), "seeds": len(seeds)}
    if texts is not None:
        counts["texts"] = len(texts)
    if len(set(counts.values())) > 1 or not images:
        found = ", ".join(f"{count} {name}" for name, count in counts.items())
        raise UserError(f"describe: got {found}; expected as many of each, at least one")
    signs = own_signs(tokenizer)
    for action in actions:
        check_words(action, query, signs)
    for text in texts or ():
        if fault := text_fault(text, signs):
            raise UserError(f"text {text[:80]!r}: {fault}")
    prompts = [prompt_ids(query, action, tokenizer) for action in actions]
    with torch.no_grad():
        patches = model.model.see(pixels(images, image_processor).to(model.device))  # [b, p, v]
        features = model.model.multi_modal_projector(patches)  # [b, p, d]
    sampling = sampling or Sampling()
    if texts is None:
        watch = None if on_texts is None else partial(tell_texts, tokenizer, on_texts)
        answers = answer(model, tokenizer, prompts, features, seeds, sampling, watch)
        texts, states = [to_text(one.tokens, tokenizer) for one in answers], [one.states for one in answers]
    else:
        ids = [answer_ids(query, *pair, tokenizer) for pair in zip(actions, texts, strict=True)]
        states = follow(model, prompts, features, [one[: sampling.max_new_tokens] for one in ids])
    return [
        Description(text, *(kept.float().cpu() for kept in made))
        for text, *made in zip(texts, features, states, patches, strict=True)
    ]


def tell_texts(
    tokenizer: PreTrainedTokenizerBase, on_texts: Callable[[list[str]], None], tokens: list[list[int]]
) -> None:
    """Hands on as texts what is written so far."""
    on_texts([to_text(row, tokenizer) for row in tokens])


def describe_part(
    job: DescribingJob, claim: AbstractContextManager[Work], loaded: Callable[[], Loaded]
) -> None:
    """Describes what a shard lacks, and writes its descriptions in their published form.

    Args:
        job: of the shard.
        claim: of the shard; is told how far it is.
        loaded: gives the model; asked only if there is something to describe.
    """
    options = job.options
    lines = options.save_path / f"{job.part}.jsonl"
    with hold(lines, "describing"), claim as work:
        clean_near(options.save_path)
        for folder in job.feature_folders:
            clean_parts(folder, PARTS)
        journal = Descriptions(lines)
        saver = (NpySaver if options.feature_store == "npy" else ShardSaver)(job, journal)
        todo = saver.left(job.items)
        counts = len(job.items), len(job.items) - len(todo), len(todo)
        log.info("%s: %d actions, %d done, %d to do", job.part, *counts)
        work.begin(*counts[:2])
        if todo:
            check_frames(job.frames, map(job.image, todo))
            describe_all(job, todo, loaded(), saver, work)
        journal.publish(options.save_path / f"{job.part}.json", job.items)


def describe_all(job: DescribingJob, todo: Sequence[Item], loaded: Loaded, saver: Saver, work: Work) -> None:
    """Describes the actions that are not done yet; without a batch size, as many at a time as fit."""
    model, tokenizer, processor = loaded
    saver.begin(model, processor)
    asked = np.fromiter(
        (len(prompt_ids(job.options.query, job.words(item), tokenizer)) for item in todo), np.int64
    )
    written = np.array(0 if job.given is None else text_lengths(job, todo, tokenizer))
    size = job.options.batch_size or fitting_batch_size(model, int(asked.max()), job.sampling)
    log.info("batch size: %d", size)
    # What is read of nearly equal length goes together, so that little is padded.
    room, past = places(model.config), 0
    order = np.argsort(asked + written, kind="stable")
    with (
        closing(saver),
        Progress(
            total=len(todo), desc="describe", unit="frame", disable=process().rank > 0, also=work.advance
        ) as bar,
    ):
        while len(order):
            batch = order[:size].tolist()
            items = [todo[place] for place in batch]
            try:
                made = describe(
                    *loaded,
                    [job.frames.read(job.image(item)) for item in items],
                    [job.words(item) for item in items],
                    seeds=[job.seed(item) for item in items],
                    query=job.options.query,
                    sampling=job.sampling,
                    texts=job.texts(items),
                )
            except torch.OutOfMemoryError:
                if size == 1:
                    raise
                torch.cuda.empty_cache()
                size //= 2
                log.warning("out of GPU memory; going on with batches of %d", size)
                continue
            saver.add(items, made)
            past += sum(
                int(asked[place]) + model.patches + len(one.text_features) > room
                for place, one in zip(batch, made, strict=True)
            )
            order = order[size:]
            bar.update(len(items))
    if past:
        log.warning(
            "%d of %d answers went past the model's %d places (max_position_embeddings); "
            "lower --max-new-tokens", past, len(todo), room,
        )  # fmt: skip


def text_lengths(
    job: DescribingJob, todo: Sequence[Item], tokenizer: PreTrainedTokenizerBase
) -> Int64[np.ndarray, " n"]:
    """Tokens that are read of each given text; says how many are cut."""
    query, most = job.options.query, job.sampling.max_new_tokens
    lengths = (
        len(answer_ids(query, job.words(item), text, tokenizer))
        for block in in_blocks(todo)
        for item, text in zip(block, job.texts(block) or (), strict=True)
    )
    counts = np.fromiter(lengths, np.int64)
    log.info("%d texts are given; nothing is generated", len(counts))
    if cut := int((counts > most).sum()):
        log.warning(
            "%d of %d texts have more than --max-new-tokens %d tokens (end mark included); what is behind "
            "has no features", cut, len(counts), most,
        )  # fmt: skip
    return np.minimum(counts, most)


def fitting_batch_size(model: Llava, prompt_length: int, sampling: Sampling) -> int:
    """How many rows fit: on a GPU, keys and values of the longest possible answers in 80 % of free memory.

    The longest prompt has `prompt_length` tokens, its image counted as one.
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
