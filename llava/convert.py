"""Turns a published LLaVA folder into a Hugging Face one, or back. Nothing is lost either way.

Adapters are merged into the checkpoint that they were trained on, and the whole is written in either format.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from egogen import cli
from egogen.cli import flag
from egogen.errors import UserError
from egogen.files import atomic_folder, atomic_open, write_json
from llava.checkpoints.adapters import base_of, is_adapter
from llava.checkpoints.clip_tower import find_clip
from llava.checkpoints.config_json import is_published, read_config, to_published, vision_settings
from llava.checkpoints.tokenizer import MODEL, SETTINGS, UNK_TEXT
from llava.checkpoints.weights import VISION, our_name, save_pickle, write_published_weights
from llava.describing.decode import BOS, BOS_TEXT, EOS, EOS_TEXT
from llava.model import Llava, load, save

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ConvertOptions:
    """The command line."""

    direction: str = flag("which format to write", positional=True, choices=["llava2hf", "hf2llava"])
    source: Path = flag("checkpoint folder to read", positional=True, type=Path)
    target: Path = flag("folder to write; must not exist", positional=True, type=Path)
    vision_tower: Path | None = flag("CLIP folder, if not the one it names", type=Path)


def main(argv: Sequence[str] | None = None) -> None:
    """Converts one folder."""
    args = cli.options(ConvertOptions, argv, "python -m llava.convert", __doc__)
    adapters = is_adapter(args.source)  # merged into their base, whose format does not matter
    raw = read_config(base_of(args.source) if adapters else args.source)
    if not adapters and is_published(raw) != (args.direction == "llava2hf"):
        form = "published" if is_published(raw) else "Hugging Face"
        raise UserError(f"{args.source}: is in {form} format already; {args.direction} reads the other one")
    if args.target.exists():
        raise UserError(f"{args.target}: exists; choose a new folder")
    dtype = getattr(torch, str(raw.get("dtype") or raw.get("torch_dtype") or "float32"))
    model, tokenizer, processor = load(args.source, vision_tower=args.vision_tower, dtype=dtype)
    with atomic_folder(args.target) as part:
        if args.direction == "llava2hf":
            save(model, tokenizer, processor, part)
        else:
            name = str(getattr(model.config, "mm_vision_tower", "") or f"openai/{args.target.name}-vision")
            write_published(model, tokenizer, part, name)
            if find_clip(name, args.target) is None:
                with atomic_folder(args.target.parent / name) as clip:
                    write_clip(model, processor, clip)
    log.info("%s: written", args.target)


def write_published(
    model: Llava, tokenizer: PreTrainedTokenizerBase, folder: Path, vision_tower: str
) -> None:
    """Writes a folder as the published trainer does (spec: stage1-vllm-protocol, section 1).

    Args:
        model: the VLLM; its vision tower is written too.
        tokenizer: one that was loaded from a SentencePiece file.
        folder: made if absent.
        vision_tower: what `mm_vision_tower` says: a folder beside this one, or a hub id.

    Raises:
        UserError: the tokenizer's SentencePiece file is not known.
    """
    source = Path(str(getattr(tokenizer, "vocab_file", None)))
    if not source.is_file():
        raise UserError(
            f"{folder}: the published format needs {MODEL}, which the source folder does not have"
        )
    folder.mkdir(parents=True, exist_ok=True)
    dtype = str(model.dtype).removeprefix("torch.")
    write_json(
        folder / "generation_config.json", {"bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": 0}
    )
    write_published_weights(folder, ((our_name(name), tensor) for name, tensor in model.state_dict().items()))
    write_published_tokenizer(source, folder, legacy=bool(getattr(tokenizer, "legacy", False)))
    write_json(folder / "config.json", to_published(model.config, vision_tower, dtype))


def write_published_tokenizer(source: Path, folder: Path, *, legacy: bool) -> None:
    """Writes the three files of LLaMA's slow tokenizer; padding is `<unk>`."""
    marks = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    tokens = {
        name: {"content": text, **marks}
        for name, text in (("bos_token", BOS_TEXT), ("eos_token", EOS_TEXT), ("unk_token", UNK_TEXT))
    }
    with atomic_open(folder / MODEL) as file:
        file.write(source.read_bytes())
    write_json(folder / "special_tokens_map.json", {**tokens, "pad_token": UNK_TEXT})
    settings = {
        "add_bos_token": True,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "legacy": legacy,
        "model_max_length": 2048,
        "pad_token": None,
        "padding_side": "right",
        "sp_model_kwargs": {},
        "tokenizer_class": "LlamaTokenizer",
        **{name: {"__type": "AddedToken", **token} for name, token in tokens.items()},
    }
    write_json(folder / SETTINGS, settings)


def write_clip(model: Llava, processor: CLIPImageProcessorPil, folder: Path) -> None:
    """Writes the vision tower as a CLIP folder with OpenAI's file and weight names."""
    folder.mkdir(parents=True, exist_ok=True)
    names = {name: our_name(name) for name in model.state_dict()}
    vision = {
        f"vision_model.{ours.removeprefix(VISION)}": model.state_dict()[name].cpu()
        for name, ours in names.items()
        if ours.startswith(VISION)
    }
    save_pickle(folder / "pytorch_model.bin", vision)
    config = json.loads(vision_settings(model.config).to_json_string(use_diff=False))
    write_json(folder / "config.json", {**config, "architectures": ["CLIPVisionModel"]})
    with writing(folder):
        processor.save_pretrained(folder)


if __name__ == "__main__":
    cli.run(main)
