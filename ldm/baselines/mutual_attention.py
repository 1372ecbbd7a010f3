"""Mutual self-attention (Cao et al. 2023, MasaCtrl): the target looks its contents up in the source."""

from __future__ import annotations

import torch
from torch.nn.functional import scaled_dot_product_attention

from ldm.baselines.control import GROUPS, NULL_SOURCE, NULL_TARGET, SOURCE, TARGET, Keys, Layer, Queries


class MutualSelfAttention:
    """The control of ProxMasaCtrl; it acts on self-attention alone, from a step and a transformer block on.

    `null` and `text` say what the target attends to without text and with it: `src`, the source's tokens;
    `joint`, those and its own; `none`, its own.
    """

    def __init__(self, first_step: int, first_block: int, null: str, text: str) -> None:
        self.first_step, self.first_block = first_step, first_block
        self.sources = {NULL_TARGET: (NULL_SOURCE, null), TARGET: (SOURCE, text)}
        self.step = 0

    def attend(self, query: Queries, key: Keys, value: Keys, layer: Layer) -> Queries:
        """Attention of the four groups of rows; the targets' with tokens of the sources."""
        if layer.cross or self.step < self.first_step or layer.block < self.first_block:
            return scaled_dot_product_attention(query, key, value)
        queries, keys, values = query.chunk(4), key.chunk(4), value.chunk(4)
        attended = []
        for group in GROUPS:
            source, mode = self.sources.get(group, (group, "none"))
            seen = {"src": [source], "joint": [source, group], "none": [group]}[mode]
            key, value = (torch.cat([part[other] for other in seen], dim=2) for part in (keys, values))
            attended.append(scaled_dot_product_attention(queries[group], key, value))
        return torch.cat(attended)
