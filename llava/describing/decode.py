"""Writes answers in batches, or follows given ones, and keeps one hidden state a token.

Text feature (spec: stage1-vllm-protocol, section 5): row w is the output of the final norm at the position
that predicts generated token w; the row that predicts EOS is included. Only that one state a step is kept,
never all layers of all steps. A row's text does not depend on its batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import Cache, PreTrainedTokenizerBase

from llava.checkpoints.config_json import text_settings
from llava.checkpoints.tokenizer import BOS, BOS_TEXT, EOS, EOS_TEXT, PAD
from llava.describing.roomy_cache import roomy_cache, without_holes
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


class Opening(NamedTuple):
    """Prompts as the language model takes them, and the cache behind what they share."""

    embeddings: Float[Tensor, "b t d"]
    attention_mask: Int[Tensor, "b s"]  # of all that came before as well
    position_ids: Int[Tensor, "b t"]
    cache: Cache


def read_prompts(
    model: Llava, prompts: Sequence[Sequence[int]], features: Float[Tensor, "b p d"], more: int = 0
) -> Opening:
    """Embeds prompts with their images, padded at the left.

    Args:
        model: the VLLM.
        prompts: token ids with one image token each.
        features: the images' projected features.
        more: tokens that will follow at most.
    """
    device, embed = features.device, model.get_input_embeddings()
    longest = max(map(len, prompts)) - 1 + model.patches
    cache = roomy_cache(text_settings(model.config), longest + more)
    # The system's text is the same for all rows: one row works through it for all.
    shared = shared_length(prompts)
    if shared:
        prefix = torch.tensor([list(prompts[0][:shared])], device=device)
        model.model(inputs_embeds=embed(prefix), past_key_values=cache, use_cache=True)
        cache.batch_repeat_interleave(len(prompts))
    ids, real = (
        tensor.to(device) for tensor in pad_left([prompt[shared:] for prompt in prompts], model.patches)
    )
    embeddings = embed(ids.masked_fill(ids == IMAGE_TOKEN, PAD))
    embeddings = embeddings.masked_scatter((ids == IMAGE_TOKEN)[..., None], features.to(embeddings.dtype))
    places = shared + (real.cumsum(dim=1) - 1).clamp(min=0)
    mask = torch.cat([real.new_ones(len(prompts), shared), real], dim=1).long()
    return Opening(embeddings, mask, places, cache)


@torch.no_grad()
def answer(
    model: Llava,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    features: Float[Tensor, "b p d"],
    seeds: Sequence[int],
    sampling: Sampling,
    on_tokens: Callable[[list[list[int]]], None] | None = None,
) -> list[Answer]:
    """Answers a batch of prompts.

    Args:
        model: the VLLM.
        tokenizer: its tokenizer, for the stop text.
        prompts: token ids with one image token each.
        features: the images' projected features.
        seeds: one a row; a row's draws come from nothing else.
        sampling: temperature, top k, limit.
        on_tokens: is called at each step with all rows' tokens so far; what it raises ends the writing.
    """
    device, most = features.device, sampling.max_new_tokens
    embeddings, mask, places, cache = read_prompts(model, prompts, features, most)
    uniforms = torch.stack([draws(seed, most) for seed in seeds]).to(device)  # [b, n]
    tokens: list[list[int]] = [[] for _ in prompts]
    states: list[list[Tensor]] = [[] for _ in prompts]
    rows = list(range(len(prompts)))  # rows of the batch that still write
    length = mask.shape[1]
    mask = torch.cat([mask, mask.new_ones(len(prompts), most)], dim=1)  # of all that may follow
    for step in range(most):
        state = model.model(
            inputs_embeds=embeddings,
            attention_mask=mask[:, : length + step],
            position_ids=places,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state[:, -1]  # [b, d]
        chosen = next_tokens(model.lm_head(state), uniforms[rows, step], sampling)
        # A state of its own: a view would keep those of all of the prompt.
        for row, token, row_state in zip(rows, chosen.tolist(), state.contiguous(), strict=True):
            tokens[row].append(token)
            states[row].append(row_state)
        if on_tokens is not None:
            on_tokens(tokens)
        going = [place for place, row in enumerate(rows) if not ends(tokens[row], tokenizer)]
        if not going:
            break
        if len(going) < len(rows):
            kept = without_holes(going)
            cache.batch_select_indices(kept)
            mask, places, chosen = (each[kept.to(device)] for each in (mask, places, chosen))
            rows = [rows[place] for place in kept.tolist()]
        embeddings = model.get_input_embeddings()(chosen[:, None])
        places = places[:, -1:] + 1
    return [Answer(done, torch.stack(kept)) for done, kept in zip(tokens, states, strict=True)]


@torch.no_grad()
def follow(
    model: Llava,
    prompts: Sequence[Sequence[int]],
    features: Float[Tensor, "b p d"],
    answers: Sequence[Sequence[int]],
) -> list[Float[Tensor, "_ d"]]:
    """The states that `answer` would have kept, had it written these answers: one pass, nothing is drawn.

    Args:
        model: the VLLM.
        prompts: token ids with one image token each.
        features: the images' projected features.
        answers: token ids of each answer, its end mark included where it has one; at least one a row.

    Returns:
        A row's states that predict each of its answer's tokens, [n, d].
    """
    read = [[*prompt, *given[:-1]] for prompt, given in zip(prompts, answers, strict=True)]
    embeddings, mask, places, cache = read_prompts(model, read, features)
    states = model.model(
        inputs_embeds=embeddings, attention_mask=mask, position_ids=places, past_key_values=cache,
        use_cache=True,
    ).last_hidden_state  # [b, t, d]  # fmt: skip
    return [row[-len(given) :].clone() for row, given in zip(states, answers, strict=True)]


def ends(tokens: list[int], tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether an answer is over: EOS or, by the published rule, BOS or the text `<s>` in the last tokens."""
    if tokens[-1] in (BOS, EOS):
        return True
    return BOS_TEXT in tokenizer.decode(tokens[-STOP_WINDOW:])


def to_text(tokens: list[int], tokenizer: PreTrainedTokenizerBase) -> str:
    """The description: decoded, without the end mark and outer spaces."""
    return str(tokenizer.decode(tokens)).strip().replace(EOS_TEXT, "").strip()
