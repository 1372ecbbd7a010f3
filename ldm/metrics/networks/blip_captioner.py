"""BLIP, which says in words what a frame shows (Li et al. 2022), read from its published files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int, UInt8
from PIL import Image
from torch import Tensor
from transformers import BertTokenizer, BlipConfig, BlipForConditionalGeneration
from transformers.cache_utils import DynamicCache, EncoderDecoderCache

from egogen.clip_pixels import CLIP_MEAN, CLIP_STD
from ldm.metrics.frames.resize import normalize
from ldm.metrics.metric_names import Protocol
from ldm.metrics.networks.beams import search
from ldm.metrics.networks.egovlp_model import count_layers, heads
from ldm.metrics.networks.metric_weights import load_strictly, read_state, require

PROMPT = "a picture of"
BEAMS, SHORTEST, LONGEST = 3, 5, 20  # lengths in tokens, the prompt's four with them
POSITION_IDS = "text_decoder.bert.embeddings.position_ids"
PLACES, PATCHES, LAYER = (
    f"visual_encoder.{name}" for name in ("pos_embed", "patch_embed.proj.weight", "blocks.0.mlp.fc1.weight")
)
WORDS, POSITIONS = (f"text_decoder.bert.embeddings.{name}_embeddings.weight" for name in ("word", "position"))
FEED_FORWARD = "text_decoder.bert.encoder.layer.0.intermediate.dense.weight"
# The published file's names -> those of transformers, in this order.
NAMES = {
    "visual_encoder.cls_token": "vision_model.embeddings.class_embedding",
    "visual_encoder.pos_embed": "vision_model.embeddings.position_embedding",
    "visual_encoder.patch_embed.proj.": "vision_model.embeddings.patch_embedding.",
    "visual_encoder.norm.": "vision_model.post_layernorm.",
    "visual_encoder.blocks.": "vision_model.encoder.layers.",
    ".norm1.": ".layer_norm1.",
    ".norm2.": ".layer_norm2.",
    ".attn.proj.": ".self_attn.projection.",
    ".attn.qkv.": ".self_attn.qkv.",
}


class Captioner:
    """Frames to captions, in evaluation mode (F-EV-06). The tokenizer lacks BLIP's [DEC] and [ENC]."""

    def __init__(self, model: BlipForConditionalGeneration, tokenizer: BertTokenizer) -> None:
        self.model: Any = model  # its types do not tell what it is asked for here
        self.tokenizer: Any = tokenizer
        shape: Any = model.config
        self.side: int = shape.vision_config.image_size
        self.end: int = tokenizer.sep_token_id
        words = tokenizer(PROMPT, add_special_tokens=False)["input_ids"]
        self.prompt = [shape.text_config.vocab_size - 2, *words]  # [DEC] a picture of

    def pixels(self, frame: UInt8[np.ndarray, "h w 3"]) -> Float[Tensor, "3 s s"]:
        """A frame as the image tower takes it: squashed, bicubic with antialiasing on 8 bits."""
        squashed = Image.fromarray(frame).resize((self.side, self.side), Image.Resampling.BICUBIC)
        pixels = rearrange(torch.from_numpy(np.array(squashed)), "h w c -> c h w")
        return normalize(pixels[None].float() / 255, CLIP_MEAN, CLIP_STD)[0]

    @torch.no_grad()
    def ids(self, pixels: Float[Tensor, "b 3 s s"], protocol: Protocol) -> Int[Tensor, "b t"]:
        """Token ids of captions with their prompt, without the end token, zeros behind.

        Published: beams are scored by their length with the prompt. Corrected: as the library does it.
        """
        device = self.model.device
        states = self.model.vision_model(pixel_values=pixels.to(device))[0]  # [b, n, d]
        prompt = torch.tensor([self.prompt] * len(pixels), device=device)
        found = self.published(states, prompt) if protocol == "published" else self.library(states, prompt)
        ids = torch.zeros(len(found), LONGEST, dtype=torch.long)
        for row, caption in zip(ids, found, strict=True):
            row[: len(caption)] = torch.tensor(caption)
        return ids

    def published(self, states: Float[Tensor, "b n d"], prompt: Int[Tensor, "b t"]) -> list[list[int]]:
        """Searches as the published code did."""
        cache: Any = EncoderDecoderCache(DynamicCache(), DynamicCache())
        states = states.repeat_interleave(BEAMS, 0)

        def step(ids: Int[Tensor, "n t"], origin: Int[Tensor, " n"]) -> Float[Tensor, "n vocab"]:
            fresh = cache.get_seq_length() == 0
            if not fresh:
                cache.self_attention_cache.reorder_cache(origin)
            return self.model.text_decoder(
                input_ids=ids if fresh else ids[:, -1:], encoder_hidden_states=states, past_key_values=cache,
                use_cache=True,
            ).logits[:, -1]  # fmt: skip

        return search(step, prompt, beams=BEAMS, shortest=SHORTEST, longest=LONGEST, end=self.end)

    def library(self, states: Float[Tensor, "b n d"], prompt: Int[Tensor, "b t"]) -> list[list[int]]:
        """Searches as transformers does."""
        ids = self.model.text_decoder.generate(
            input_ids=prompt, attention_mask=torch.ones_like(prompt), encoder_hidden_states=states,
            num_beams=BEAMS, min_length=SHORTEST, max_length=LONGEST, do_sample=False,
            eos_token_id=self.end, pad_token_id=self.end,
        )  # fmt: skip
        rows: list[list[int]] = ids.tolist()
        return [row[: row.index(self.end)] if self.end in row else row for row in rows]

    def text(self, ids: Int[Tensor, " t"]) -> str:
        """A caption without its prompt; the blank before its first word stays, as published."""
        words = [token for token in ids[1:].tolist() if token != self.tokenizer.pad_token_id]
        caption: str = self.tokenizer.decode(words, clean_up_tokenization_spaces=True)
        return caption[len(PROMPT) :]


def load_captioner(path: Path, tokenizer: BertTokenizer, device: torch.device) -> Captioner:
    """Reads a published file; sizes follow from its tensors.

    Raises:
        UserError: it is broken, or the file of another network.
    """
    state = read_state(path)
    require(state, (PLACES, PATCHES, LAYER, WORDS, POSITIONS, FEED_FORWARD), path, "BLIP")
    model = BlipForConditionalGeneration(config(state))
    named = {rename(name): value for name, value in state.items()}
    load_strictly(model, named, path, "BLIP", lambda name: name == POSITION_IDS)
    return Captioner(model.eval().to(device), tokenizer)


def rename(name: str) -> str:
    """The library's name of a published tensor."""
    if name.startswith("visual_encoder."):
        for old, new in NAMES.items():
            name = name.replace(old, new)
    return name


def config(state: Mapping[str, Tensor]) -> BlipConfig:
    """The sizes of a file's network."""
    width, _, patch, _ = state[PATCHES].shape
    vocabulary, text_width = state[WORDS].shape
    vision = {
        "hidden_size": width, "intermediate_size": state[LAYER].shape[0], "patch_size": patch,
        "num_hidden_layers": count_layers(state, "visual_encoder.blocks."), "layer_norm_eps": 1e-6,
        "num_attention_heads": heads(width),
        "image_size": round((state[PLACES].shape[1] - 1) ** 0.5) * patch,
    }  # fmt: skip
    text = {
        "vocab_size": vocabulary, "hidden_size": text_width, "encoder_hidden_size": width,
        "intermediate_size": state[FEED_FORWARD].shape[0], "num_attention_heads": heads(text_width),
        "num_hidden_layers": count_layers(state, "text_decoder.bert.encoder.layer."),
        "max_position_embeddings": state[POSITIONS].shape[0],
    }  # fmt: skip
    return BlipConfig(vision_config=vision, text_config=text)
