"""Beam search as transformers 4.19 did it, with which the published captions were made.

Two things differ from today's library: a beam's score is divided by its length with the prompt, and a beam
that ends counts without its end token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

# Token ids and the index of the beam that each continues -> logits of the next token.
Step = Callable[[Int[Tensor, "n t"], Int[Tensor, " n"]], Float[Tensor, "n vocab"]]


@dataclass
class Hypotheses:
    """The best ended beams of one item, as (log probability / length, token ids)."""

    size: int
    best: list[tuple[float, list[int]]] = field(default_factory=list)
    done: bool = False

    def add(self, log_probability: float, ids: Sequence[int]) -> None:
        """Keeps a beam if it is among the best."""
        self.best.append((log_probability / len(ids), list(ids)))
        # Of equal scores the earlier stays: sorting is stable.
        self.best = sorted(self.best, key=lambda each: -each[0])[: self.size]

    def close(self, log_probability: float, length: int) -> None:
        """Notes that no running beam can win, by the best continuation and the length before it."""
        self.done |= len(self.best) == self.size and self.best[-1][0] >= log_probability / length


def search(
    step: Step, prompt: Int[Tensor, "b t"], *, beams: int, shortest: int, longest: int, end: int
) -> list[list[int]]:
    """Finds the best continuation of each prompt.

    Args:
        step: called with the ids of all beams and where each came from among the beams of the call before.
        prompt: token ids; they count in all lengths.
        beams: number of beams of an item.
        shortest: smallest length at which a beam may end.
        longest: length at which every beam ends.
        end: id of the end token.

    Returns:
        Token ids of each item with the prompt, without the end token.
    """
    items = len(prompt)
    ids = prompt.repeat_interleave(beams, 0)  # [b*beams, t]
    scores = torch.zeros(items, beams, device=ids.device)
    scores[:, 1:] = -1e9  # all beams begin alike, so only the first may branch
    origin = torch.arange(items * beams, device=ids.device)
    found = [Hypotheses(beams) for _ in range(items)]
    while ids.shape[1] < longest and not all(each.done for each in found):
        log_probabilities = step(ids, origin).log_softmax(-1)  # [b*beams, vocab]
        if ids.shape[1] < shortest:
            log_probabilities[:, end] = -torch.inf
        vocabulary = log_probabilities.shape[-1]
        by_beam = rearrange(log_probabilities, "(b beams) v -> b beams v", b=items)
        totals = rearrange(by_beam + scores[..., None], "b beams v -> b (beams v)")
        best, places = totals.topk(2 * beams)  # [b, 2*beams]
        kept = [
            continue_item(found[item], ids[item * beams : (item + 1) * beams].tolist(), beams, end, row)
            for item, row in enumerate(
                [(value, place // vocabulary, place % vocabulary) for value, place in zip(*each, strict=True)]
                for each in zip(best.tolist(), places.tolist(), strict=True)
            )
        ]
        scores = torch.tensor([[each[0] for each in row] for row in kept], device=ids.device)
        origin = torch.tensor(
            [item * beams + each[1] for item, row in enumerate(kept) for each in row], device=ids.device
        )
        tokens = torch.tensor([each[2] for row in kept for each in row], device=ids.device)
        ids = torch.cat([ids[origin], tokens[:, None]], dim=1)
    for item, each in enumerate(found):
        if not each.done:
            for beam in range(beams):
                each.add(float(scores[item, beam]), ids[item * beams + beam].tolist())
    return [each.best[0][1] for each in found]


def continue_item(
    found: Hypotheses, ids: list[list[int]], beams: int, end: int, candidates: list[tuple[float, int, int]]
) -> list[tuple[float, int, int]]:
    """One item's step: of its candidates (log probability, beam, next token), best first, those that go on.

    Beams that end are added to `found`.
    """
    running = []
    for rank, (value, beam, token) in enumerate(candidates):
        if token != end:
            running.append((value, beam, token))
        elif rank < beams and not found.done:
            found.add(value, ids[beam])
        if len(running) == beams:
            break
    if not found.done:
        found.close(candidates[0][0], len(ids[0]))
    return running
