"""Filters on extracted pairs by an image model: too much changed, too little, or not worth looking at."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32

from egogen.annotations import JsonObject
from egogen.errors import UserError
from egogen.frames import read_frame
from egogen.journal import Journal
from egogen.layout import Layout
from egogen.prepare.embedders import Embedder, load_embedder, load_head
from egogen.prepare.options import PrepareOptions
from egogen.prepare.pair_plan import ActionPair
from egogen.progress import Progress

log = logging.getLogger(__name__)

BATCH_PAIRS = 32


def judge(pairs: Sequence[ActionPair], layout: Layout, options: PrepareOptions, journal: Journal) -> None:
    """Scores the pairs that have no scores yet and leaves out those beyond the limits."""
    if options.embedder is None:
        log.info("similarity filter: off, no --embedder was given")
        return
    left = [pair for pair in pairs if pair.key not in journal.rows]
    if left:
        embedder = load_embedder(options.embedder, options.embedder_model)
        head = None if options.aesthetic_head is None else load_head(options.aesthetic_head)
        for first in Progress(range(0, len(left), BATCH_PAIRS), desc="scores", unit="batch"):
            journal.add(score(left[first : first + BATCH_PAIRS], layout, embedder, head))
    for pair in pairs:
        row = journal.rows[pair.key]
        pair.scores = {name: value for name, value in row.items() if name not in ("clip", "id")}
        pair.reason = verdict(row, options)


def score(
    pairs: Sequence[ActionPair], layout: Layout, embedder: Embedder, head: Float32[np.ndarray, " d1"] | None
) -> list[dict[str, object]]:
    """A journal line for each pair: cosine of its frames' embeddings; their aesthetic scores.

    Raises:
        UserError: the head is for another image model.
    """
    images = [read_frame(path) for pair in pairs for path in pair.paths(layout)[:2]]
    found = embedder(images)  # [2 pairs, d]
    if head is not None and len(head) != found.shape[1] + 1:
        raise UserError(
            f"--aesthetic-head is for embeddings of width {len(head) - 1}, --embedder gives {found.shape[1]}"
        )
    found = found / np.linalg.norm(found, axis=1, keepdims=True)
    cosines = (found[0::2] * found[1::2]).sum(1)  # [pairs]
    rows: list[dict[str, object]] = [
        {"clip": pair.clip, "id": pair.id, "similarity": round(float(cosine), 5)}
        for pair, cosine in zip(pairs, cosines, strict=True)
    ]
    if head is not None:
        scores = (found @ head[:-1] + head[-1]).reshape(-1, 2)  # [pairs, 2]
        for row, (first, second) in zip(rows, scores, strict=True):
            row |= {"aesthetic_0": round(float(first), 4), "aesthetic_1": round(float(second), 4)}
    return rows


def verdict(scores: JsonObject | None, options: PrepareOptions) -> str | None:
    """Why a pair of these scores is left out; None if it is not, or has no scores."""
    if scores is None or options.embedder is None:
        return None
    low, high = options.similarity
    if scores["similarity"] < low:
        return f"similarity below {low:g}"
    if scores["similarity"] > high:
        return f"similarity above {high:g}"
    least = options.min_aesthetic
    if least is not None and min(scores["aesthetic_0"], scores["aesthetic_1"]) < least:
        return f"aesthetic score below {least:g}"
    return None
