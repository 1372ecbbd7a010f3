"""Shows the toy LLaMA where to look: a pre-training loss on attention, as a pointing finger.

Finding a named object among 256 patches is learnt from captions alone only after millions of tokens. Here two
heads of the second layer are pulled to the question's noun, and two of the third to that object's patches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from llava.model import Llava
from llava.question.prompts import IGNORED, IMAGE_TOKEN
from llava.tuning.conversations import Example

# Which layer's first heads point, and at what.
NOUN_LAYER, NOUN_HEADS = 1, 2
PATCH_LAYER, PATCH_HEADS = 2, 4


class Pointers(NamedTuple):
    """For one example, before its image place is expanded: where each turn's answer should look."""

    answers: list[range]  # places that predict an answer's tokens
    nouns: list[int]  # place of the noun that is asked for
    patches: list[Bool[Tensor, " p"]]  # patches that show it


class Marks(NamedTuple):
    """For a batch: which place (second axis) should look at which (third)."""

    nouns: Bool[Tensor, "b t t"]
    patches: Bool[Tensor, "b t t"]


def pointers(example: Example, nouns: Sequence[int], patches: Sequence[Bool[Tensor, " p"]]) -> Pointers:
    """Finds the places of an example's turns; each asks for a noun (a token id) that some patches show."""
    answers = list(answer_places(example.labels))
    assert len(answers) == len(nouns)
    places = [
        max(place for place in range(answer.start + 1) if example.ids[place] == noun)
        for answer, noun in zip(answers, nouns, strict=True)
    ]
    return Pointers(answers, places, list(patches))


def answer_places(labels: Sequence[int]) -> Iterator[range]:
    """Places that predict each run of supervised tokens."""
    for learnt, places in groupby(range(len(labels)), lambda place: labels[place] != IGNORED):
        if learnt:
            first, *rest = places
            yield range(first - 1, first + len(rest))


def marks(batch: Sequence[tuple[Example, Pointers]], length: int, patches: int) -> Marks:
    """Spreads pointers over a batch of expanded examples."""
    to_nouns, to_patches = (torch.zeros(len(batch), length, length, dtype=torch.bool) for _ in range(2))
    for row, (example, found) in enumerate(batch):
        image = example.ids.index(IMAGE_TOKEN)
        for answer, noun, shown in zip(*found, strict=True):
            # Every turn comes after the image, whose place has become `patches` places.
            places = slice(answer.start + patches - 1, answer.stop + patches - 1)
            to_nouns[row, places, noun + patches - 1] = True
            to_patches[row, places, image : image + patches] = shown
    return Marks(to_nouns, to_patches)


@torch.no_grad()
def begin_as_copying(model: Llava) -> None:
    """Lets the pointing layers begin by copying what they see: values orthogonal, outputs their transpose.

    Queries and keys begin wider than LLaMA's 0.02, which is made for widths of thousands.
    """
    for layer in (NOUN_LAYER, PATCH_LAYER):
        attention = model.model.language_model.layers[layer].self_attn
        torch.nn.init.orthogonal_(attention.v_proj.weight)
        attention.o_proj.weight.copy_(attention.v_proj.weight.T)
        for projection in (attention.q_proj, attention.k_proj):
            torch.nn.init.normal_(projection.weight, std=projection.in_features**-0.5)


def attention_scores(
    model: Llava, layer: int, heads: int, states: Float[Tensor, "b t d"]
) -> Float[Tensor, "b h t t"]:
    """What the first heads of a layer look at, as log probabilities; `states` enter that layer."""
    block = model.model.language_model.layers[layer]
    attention, normed = block.self_attn, block.input_layernorm(states)
    length, width = states.shape[1], attention.head_dim
    places: Int[Tensor, "1 t"] = torch.arange(length)[None]

    def first(projection: torch.nn.Linear) -> Float[Tensor, "b h t w"]:
        split = projection(normed).unflatten(-1, (-1, width))[:, :, :heads]  # [b, t, h, w]
        return split.transpose(1, 2)

    waves = model.model.language_model.rotary_emb(states, places)
    queries, keys = apply_rotary_pos_emb(first(attention.q_proj), first(attention.k_proj), *waves)
    scores = queries @ keys.transpose(-1, -2) / width**0.5  # [b, h, t, t]
    later = torch.ones(length, length, dtype=torch.bool).triu(1)
    return scores.masked_fill(later, -torch.inf).log_softmax(dim=-1)


def pointing_loss(
    model: Llava, hidden_states: Sequence[Float[Tensor, "b t d"]], batch: Marks
) -> Float[Tensor, ""]:
    """Mean surprise, in nats, that the heads look where they should not."""
    losses = []
    pointing = ((NOUN_LAYER, NOUN_HEADS, batch.nouns), (PATCH_LAYER, PATCH_HEADS, batch.patches))
    for layer, heads, wanted in pointing:
        scores = attention_scores(model, layer, heads, hidden_states[layer])
        rows = wanted.any(dim=-1)  # [b, t]
        chosen = scores.transpose(1, 2)[rows]  # [n, h, t]
        inside = chosen.masked_fill(~wanted[rows][:, None], -torch.inf)
        losses.append(-inside.logsumexp(dim=-1).mean())
    return torch.stack(losses).mean()
