"""Prompt-to-Prompt (Hertz et al. 2023): the target takes over the source's attention maps, for a while."""

from __future__ import annotations

import torch
from torch.nn.functional import scaled_dot_product_attention

from ldm.baselines.control import SOURCE, TARGET, Keys, Layer, Queries
from ldm.baselines.token_maps import TokenMap


class PromptToPrompt:
    """The control of ProxNPI; it acts on the predictions with text alone.

    The first `cross_steps` take over cross-attention by the maps, stacked, one a pair of prompts; the first
    `self_steps` self-attention, in layers of at most `self_limit` tokens.
    """

    def __init__(self, maps: TokenMap, cross_steps: int, self_steps: int, self_limit: int) -> None:
        self.maps, self.cross_steps = maps, cross_steps
        self.self_steps, self.self_limit = self_steps, self_limit
        self.step = 0

    def attend(self, query: Queries, key: Keys, value: Keys, layer: Layer) -> Queries:
        """Attention of the four groups of rows, the target's with the source's maps."""
        if layer.cross and self.step < self.cross_steps:
            return self.cross(query, key, value)
        if not layer.cross and self.step < self.self_steps and query.shape[2] <= self.self_limit:
            # The map follows from query and key.
            query, key = (take_over(part) for part in (query, key))
        return scaled_dot_product_attention(query, key, value)

    def cross(self, query: Queries, key: Keys, value: Keys) -> Queries:
        """Cross-attention whose target maps are mixed from the source's and its own."""
        queries, keys, values = query.chunk(4), key.chunk(4), value.chunk(4)
        source, target = (
            (queries[group] @ keys[group].mT / query.shape[-1] ** 0.5).softmax(dim=-1)
            for group in (SOURCE, TARGET)
        )  # b heads n t
        matrix = self.maps.matrix[:, None].to(query)  # b 1 t t
        share, factor = (part[:, None, None].to(query) for part in (self.maps.share, self.maps.factor))
        # Rows are not normalized again (released).
        mixed = factor * (source @ matrix * share + target * (1 - share))
        query, key, value = (torch.cat(part[:TARGET]) for part in (queries, keys, values))
        return torch.cat([scaled_dot_product_attention(query, key, value), mixed @ values[TARGET]])


def take_over(part: Queries) -> Queries:
    """The four groups of rows, with the source's in the target's place."""
    groups = part.chunk(4)
    return torch.cat([*groups[:TARGET], groups[SOURCE]])
