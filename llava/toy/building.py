"""The work of `python -m llava.toy`; the command tells what it is for."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from random import Random

import torch
from transformers import CLIPVisionModel, PreTrainedTokenizerBase
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from egogen.conversations import read_conversations
from egogen.disk import writing
from egogen.errors import UserError
from egogen.frames import read_frame
from egogen.layout import FOLDERS, Layout
from egogen.locks import hold
from egogen.manifest import NAME, claim
from egogen.seeds import item_seed
from egogen.toy.scene import KINDS
from llava.checkpoints.clip_tower import load_image_processor, pixels
from llava.checkpoints.config_json import patches_across
from llava.checkpoints.published_folder import write_clip, write_published
from llava.checkpoints.tokenizer import MODEL, load_tokenizer
from llava.model import read_checkpoint
from llava.question.prompts import render
from llava.toy.language import WIDTH, build_toy, train_language, train_tokenizer
from llava.toy.pointing import pointers
from llava.toy.toy_frames import (
    COLUMN_NAMES,
    ROW_NAMES,
    SUBJECTS,
    TONES,
    Talk,
    Targets,
    View,
    talk,
    targets,
    views,
)
from llava.toy.toy_options import ToyLlavaOptions
from llava.toy.toy_tower import PatchReader, toy_vision_config, train_vision
from llava.tuning.conversations import encode, messages

log = logging.getLogger(__name__)

VISION_TOWER = "openai/clip-vit-toy-patch4-64"
MAX_TALK_TOKENS = 512
WORD_GROUPS = (SUBJECTS, TONES, ROW_NAMES, COLUMN_NAMES)


def build_once(options: ToyLlavaOptions) -> None:
    """Builds the toy LLaVA, unless it is there."""
    settings = {"made_by": "python -m llava.toy", "dataset": options.dataset, "seed": options.seed}
    with hold(options.out, "building", wait=True), writing(options.out):
        claim(options.out, settings, f".{NAME}")
        if is_built(options.out):
            log.info("%s: the toy LLaVA is there", options.out)
        else:
            make(options)


def make(options: ToyLlavaOptions) -> None:
    """Reads the toy world and makes a tokenizer from whole conversations, template included; then builds."""
    torch.manual_seed(options.seed)
    root = options.data_root
    datasets = list(FOLDERS) if options.dataset == "both" else [options.dataset]
    seen = [view for each in datasets for view in views(root, each)]
    # The same questions wherever the data lies.
    seeds = [item_seed(options.seed, view.path.relative_to(root).as_posix()) for view in seen]
    talks = [talk(view, Random(seed)) for view, seed in zip(seen, seeds, strict=True)]  # noqa: S311 - texts
    records = [record for each in datasets for record in read_conversations(Layout(root, each).conversations)]
    records += [said.record for said in talks]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / MODEL).write_bytes(train_tokenizer([render(messages(record)) for record in records]))
        build(options, seen, talks, load_tokenizer(Path(folder)))


def is_built(out: Path) -> bool:
    """Whether the checkpoint and its CLIP are there and whole; damaged ones get a warning."""
    if not (out / "config.json").exists():
        return False
    try:
        read_checkpoint(out)
    except UserError as error:
        log.warning("%s; the toy LLaVA is made anew", error)
        return False
    return True


def build(
    options: ToyLlavaOptions, seen: Sequence[View], talks: Sequence[Talk], tokenizer: PreTrainedTokenizerBase
) -> None:
    """Trains CLIP, then LLaMA, and writes both; `config.json` of the checkpoint comes last."""
    processor: CLIPImageProcessorPil = load_image_processor(Path(), toy_vision_config())
    frames = torch.cat([pixels([read_frame(view.path)], processor) for view in seen])  # [n, 3, 64, 64]
    side = patches_across(toy_vision_config())
    shown = Targets(*map(torch.stack, zip(*(targets(view.story, side) for view in seen), strict=True)))
    words = [[tokenizer(word).input_ids[1] for word in group[1:]] for group in WORD_GROUPS]
    reader = PatchReader(CLIPVisionModel(toy_vision_config()), words, len(tokenizer), WIDTH)
    train_vision(reader, frames, shown, options.seconds, options.vision_steps)
    model = build_toy(reader, VISION_TOWER)
    nouns = {kind: tokenizer(kind).input_ids[1] for kind in KINDS}
    examples = []
    for said, subject in zip(talks, shown.subject, strict=True):
        example = encode(said.record, tokenizer, MAX_TALK_TOKENS)
        kinds = [thing.kind for thing in said.things]
        where = [subject == SUBJECTS.index(kind) for kind in kinds]
        examples.append((example, pointers(example, [nouns[kind] for kind in kinds], where)))
    train_language(model, examples, frames, options.seconds, options.language_steps)
    clip = options.out.parent / VISION_TOWER
    write_clip(model, processor, clip)
    write_published(model, tokenizer, options.out, VISION_TOWER)
    log.info("%s: written, with its CLIP in %s", options.out, clip)
