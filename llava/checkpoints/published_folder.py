"""Folders in the published format: the checkpoint, its tokenizer, and CLIP beside it."""

from __future__ import annotations

import json
from pathlib import Path

from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerBase
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from egogen.disk import writing
from egogen.errors import UserError
from egogen.files import atomic_open, write_json
from llava.checkpoints.config_json import to_published, vision_settings
from llava.checkpoints.tokenizer import BOS, BOS_TEXT, EOS, EOS_TEXT, MODEL, SETTINGS, UNK_TEXT
from llava.checkpoints.weights import VISION, our_name, save_pickle, write_published_weights


def write_published(
    model: LlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerBase, folder: Path, vision_tower: str
) -> None:
    """Writes a folder as the published trainer does (spec: stage1-vllm-protocol, section 1).

    `vision_tower` is what `mm_vision_tower` says: a folder beside this one, or a hub id.

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


def write_clip(model: LlavaForConditionalGeneration, processor: CLIPImageProcessorPil, folder: Path) -> None:
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
