"""Builds a toy LLaVA in the published format: tokenizer, CLIP, LLaMA, each trained briefly on the toy world.

It knows what is where in a frame and nothing about actions: fine-tuning has all of LEGO's question to learn.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import NamedTuple

import torch
from transformers import CLIPVisionModel, PreTrainedTokenizerBase
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from egogen import cli
from egogen.conversations import Conversation, read_conversations
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
from llava.toy.language import WIDTH, build_toy, train_language
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
from llava.toy.toy_tokenizer import train_tokenizer
from llava.toy.toy_tower import PatchReader, toy_vision_config, train_vision
from llava.tuning.conversations import encode, messages

log = logging.getLogger(__name__)

VISION_TOWER = "openai/clip-vit-toy-patch4-64"
MAX_TALK_TOKENS = 512
WORD_GROUPS = (SUBJECTS, TONES, ROW_NAMES, COLUMN_NAMES)


class ToyTraining(NamedTuple):
    """Batches, which decide the result, and the time after which each training stops early."""

    vision_steps: int
    language_steps: int
    seconds: float


def main(argv: Sequence[str] | None = None) -> None:
    """Builds the toy LLaVA, unless it is there."""
    parser = cli.parser("python -m llava.toy", __doc__)
    parser.add_argument("--data-root", type=Path, required=True, help="folder with the toy world's EgoGen")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint folder; CLIP goes beside it")
    parser.add_argument(
        "--dataset", choices=[*FOLDERS, "both"], default="both", help="whose training frames to see"
    )
    parser.add_argument("--seed", type=int, default=0, help="of weights and order")
    parser.add_argument("--vision-steps", type=int, default=250, help="batches of CLIP's training")
    parser.add_argument("--language-steps", type=int, default=180, help="batches of LLaMA's training")
    parser.add_argument("--seconds", type=float, default=600.0, help="stop each of the two after this time")
    args = parser.parse_args(argv)
    for flag in ("vision_steps", "language_steps", "seconds"):
        if getattr(args, flag) <= 0:
            raise UserError(f"--{flag.replace('_', '-')} {getattr(args, flag)}: expected a number above 0")
    budget = ToyTraining(args.vision_steps, args.language_steps, args.seconds)
    settings = {"made_by": "python -m llava.toy", "dataset": args.dataset, "seed": args.seed}
    with hold(args.out, "building", wait=True), writing(args.out):
        claim(args.out, settings, f".{NAME}")
        if is_built(args.out):
            log.info("%s: the toy LLaVA is there", args.out)
        else:
            make(args.out, args.data_root, args.dataset, args.seed, budget)


def make(out: Path, data_root: Path, dataset: str, seed: int, budget: ToyTraining) -> None:
    """Reads the toy world, then builds."""
    torch.manual_seed(seed)
    datasets = list(FOLDERS) if dataset == "both" else [dataset]
    seen = [view for each in datasets for view in views(data_root, each)]
    records = [
        record for each in datasets for record in read_conversations(Layout(data_root, each).conversations)
    ]
    talks = ask(seen, data_root, seed)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = make_tokenizer(Path(folder), [*records, *(said.record for said in talks)])
        build(out, seen, talks, tokenizer, budget)


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


def ask(seen: Sequence[View], data_root: Path, seed: int) -> list[Talk]:
    """Questions about frames; the same wherever the data lies."""
    names = [view.path.relative_to(data_root).as_posix() for view in seen]
    return [talk(view, Random(item_seed(seed, name))) for view, name in zip(seen, names, strict=True)]  # noqa: S311 - texts


def make_tokenizer(folder: Path, records: Sequence[Conversation]) -> PreTrainedTokenizerBase:
    """Learns the tokenizer from whole conversations, template included."""
    (folder / MODEL).write_bytes(train_tokenizer([render(messages(record)) for record in records]))
    return load_tokenizer(folder)


def build(
    out: Path,
    seen: Sequence[View],
    talks: Sequence[Talk],
    tokenizer: PreTrainedTokenizerBase,
    budget: ToyTraining,
) -> None:
    """Trains CLIP, then LLaMA, and writes both; `config.json` of the checkpoint comes last."""
    processor: CLIPImageProcessorPil = load_image_processor(Path(), toy_vision_config())
    frames = torch.cat([pixels([read_frame(view.path)], processor) for view in seen])  # [n, 3, 64, 64]
    side = patches_across(toy_vision_config())
    shown = Targets(*map(torch.stack, zip(*(targets(view.story, side) for view in seen), strict=True)))
    words = [[tokenizer(word).input_ids[1] for word in group[1:]] for group in WORD_GROUPS]
    reader = PatchReader(CLIPVisionModel(toy_vision_config()), words, len(tokenizer), WIDTH)
    train_vision(reader, frames, shown, budget.seconds, budget.vision_steps)
    model = build_toy(reader, VISION_TOWER)
    nouns = {kind: tokenizer(kind).input_ids[1] for kind in KINDS}
    examples = []
    for said, subject in zip(talks, shown.subject, strict=True):
        example = encode(said.record, tokenizer, MAX_TALK_TOKENS)
        kinds = [thing.kind for thing in said.things]
        where = [subject == SUBJECTS.index(kind) for kind in kinds]
        examples.append((example, pointers(example, [nouns[kind] for kind in kinds], where)))
    train_language(model, examples, frames, budget.seconds, budget.language_steps)
    write_clip(model, processor, out.parent / VISION_TOWER)
    write_published(model, tokenizer, out, VISION_TOWER)
    log.info("%s: written, with its CLIP in %s", out, out.parent / VISION_TOWER)


if __name__ == "__main__":
    cli.run(main)
