"""Writes answers in batches and keeps one hidden state a token; a row's text does not depend on its batch.

Text feature (spec: stage1-vllm-protocol, section 5): row w is the output of the final norm at the position
that predicts generated token w; the row that predicts EOS is included. Only that one state a step is kept,
never all layers of all steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import DynamicCache, PreTrainedTokenizerBase

from llava.checkpoints.config_json import text_settings
from llava.checkpoints.tokenizer import BOS, BOS_TEXT, EOS, EOS_TEXT, PAD
from llava.model import Llava
from llava.question.prompts import IMAGE_TOKEN, expand_image

STOP_WINDOW = 3  # tokens in which the literal text "<s>" ends an answer


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn."""

    temperature: float = 0.2  # divides the logits; 0 takes the likeliest token
    top_k: int = 50  # of the likeliest tokens one is drawn
    max_new_tokens: int = 1024  # where an answer is cut


@dataclass(frozen=True)
class Answer:
    """Generated tokens (EOS included) and, a row each, the final-norm states that predict them, [n, d]."""

    tokens: list[int]
    states: Float[Tensor, "n d"]


def next_tokens(
    logits: Float[Tensor, "b v"], uniforms: Float[Tensor, " b"], sampling: Sampling
) -> Int[Tensor, " b"]:
    """Draws a token a row, where the cumulative distribution passes the row's uniform number (0 to 1)."""
    if sampling.temperature == 0:
        return logits.argmax(dim=-1)
    top = torch.topk(logits.float() / sampling.temperature, min(sampling.top_k, logits.shape[-1]))
    below = top.values.softmax(dim=-1).double().cumsum(dim=-1) <= uniforms[:, None]  # [b, k]
    return top.indices.gather(1, below.sum(dim=-1, keepdim=True).clamp(max=top.indices.shape[1] - 1))[:, 0]


def draws(seed: int, count: int) -> Float[Tensor, " n"]:
    """The uniform numbers of one item, in double precision."""
    return torch.rand(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pad_left(
    prompts: Sequence[Sequence[int]], patches: int
) -> tuple[Int[Tensor, "b t"], Bool[Tensor, "b t"]]:
    """Expands image places and pads at the left, so that all prompts end at the same place.

    Returns:
        Ids, and which of them are no padding.
    """
    rows = [expand_image(prompt, prompt, patches, IMAGE_TOKEN) for prompt in prompts]
    longest = max(map(len, rows))
    ids = torch.tensor([[PAD] * (longest - len(row)) + row for row in rows])
    real = torch.tensor([[False] * (longest - len(row)) + [True] * len(row) for row in rows])
    return ids, real


def shared_length(prompts: Sequence[Sequence[int]]) -> int:
    """How many tokens before the image are the same in all prompts."""
    columns = zip(*prompts, strict=False)
    different = (len(set(column)) > 1 or IMAGE_TOKEN in column for column in columns)
    return next((place for place, stops in enumerate(different) if stops), 0)


@torch.no_grad()
def answer(
    model: Llava,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    features: Float[Tensor, "b p d"],
    seeds: Sequence[int],
    sampling: Sampling,
) -> list[Answer]:
    """Answers a batch of prompts.

    Args:
        model: the VLLM.
        tokenizer: its tokenizer, for the stop text.
        prompts: token ids with one image token each.
        features: the images' projected features.
        seeds: one a row; a row's draws come from nothing else.
        sampling: temperature, top k, limit.
    """
    device = features.device
    cache = DynamicCache(config=text_settings(model.config))
    # The system's text is the same for all rows: one row works through it for all.
    shared = shared_length(prompts)
    if shared:
        prefix = torch.tensor([list(prompts[0][:shared])], device=device)
        model.model(inputs_embeds=model.get_input_embeddings()(prefix), past_key_values=cache, use_cache=True)
        cache.batch_repeat_interleave(len(prompts))
    ids, real = (
        tensor.to(device) for tensor in pad_left([prompt[shared:] for prompt in prompts], model.patches)
    )
    embeddings = model.get_input_embeddings()(ids.masked_fill(ids == IMAGE_TOKEN, PAD))
    embeddings = embeddings.masked_scatter((ids == IMAGE_TOKEN)[..., None], features.to(embeddings.dtype))
    uniforms = torch.stack([draws(seed, sampling.max_new_tokens) for seed in seeds]).to(device)  # [b, n]
    tokens: list[list[int]] = [[] for _ in prompts]
    states: list[list[Tensor]] = [[] for _ in prompts]
    rows = list(range(len(prompts)))  # rows of the batch that still write
    places = shared + (real.cumsum(dim=1) - 1).clamp(min=0)
    real = torch.cat([real.new_ones(len(prompts), shared), real], dim=1)
    for step in range(sampling.max_new_tokens):
        state = model.model(
            inputs_embeds=embeddings,
            attention_mask=real.long(),
            position_ids=places,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state[:, -1]  # [b, d]
        chosen = next_tokens(model.lm_head(state), uniforms[rows, step], sampling)
        for row, token, row_state in zip(rows, chosen.tolist(), state, strict=True):
            tokens[row].append(token)
            states[row].append(row_state)
        going = [place for place, row in enumerate(rows) if not ends(tokens[row], tokenizer)]
        if not going:
            break
        if len(going) < len(rows):
            kept = torch.tensor(going, device=device)
            cache.batch_select_indices(kept)
            real, places, chosen = real[kept], places[kept], chosen[kept]
            rows = [rows[place] for place in going]
        embeddings = model.get_input_embeddings()(chosen[:, None])
        real = torch.cat([real, real.new_ones(len(rows), 1)], dim=1)
        places = places[:, -1:] + 1
    return [Answer(done, torch.stack(kept)) for done, kept in zip(tokens, states, strict=True)]


def ends(tokens: list[int], tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether an answer is over: EOS or, by the published rule, BOS or the text `<s>` in the last tokens."""
    if tokens[-1] in (BOS, EOS):
        return True
    return BOS_TEXT in tokenizer.decode(tokens[-STOP_WINDOW:])


def to_text(tokens: list[int], tokenizer: PreTrainedTokenizerBase) -> str:
    """The description: decoded, without the end mark and outer spaces."""
    return str(tokenizer.decode(tokens)).strip().replace(EOS_TEXT, "").strip()
