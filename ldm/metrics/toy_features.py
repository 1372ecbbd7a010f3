"""Distance and similarity in the features of a classifier of toy frames. For the toy world alone.

They stand where FID and CLIP similarity stand in the paper's table, and are neither: the classifier knows
nothing but the toy world. Both protocols are the same.
"""

from __future__ import annotations

import math
from dataclasses import replace

from jaxtyping import Float
from torch import Tensor

from ldm.metrics.feature_cache import Memory
from ldm.metrics.fid import Distance, check_count
from ldm.metrics.frames.frame_pairs import Batch, Pairs, Side
from ldm.metrics.metric import Accumulator, Metric, Setting
from ldm.metrics.networks.toy_classifier import load_classifier
from ldm.metrics.networks.weight_files import TOY_CLASSIFIER
from ldm.metrics.similarity import Embed, Similarity


def embed_by(setting: Setting) -> Embed:
    """Features of the classifier."""
    path = setting.weights[TOY_CLASSIFIER.name]
    network = setting.once(str(path), lambda: load_classifier(path, setting.device))

    def embed(batch: Batch, side: Side, chosen: list[int]) -> Float[Tensor, "k d"]:
        return network.embed(batch.images(side)[chosen]).cpu()

    return embed


def begin_distance(setting: Setting, pairs: Pairs, memory: Memory) -> Accumulator:
    """Opens `toy_fid`.

    Raises:
        UserError: there are too few frames for a covariance.
    """
    check_count("toy_fid", pairs)
    return Distance(embed_by(setting), memory)


def begin_similarity(setting: Setting, _: Pairs, memory: Memory) -> Accumulator:
    """Opens `toy_similarity`."""
    return Similarity(embed_by(setting), memory)


SIMILARITY = Metric(
    name="toy_similarity",
    key="toy_similarity",
    title="Toy similarity",
    low=-1.0,
    high=1.0,
    unit="",
    times=100,
    better="higher",
    source="cosine of the features of a classifier of toy frames",
    libraries=("lego-egogen",),
    open=begin_similarity,
    applies=lambda _: False,
    weights=lambda _: (TOY_CLASSIFIER,),
)
DISTANCE = replace(
    SIMILARITY,
    name="toy_fid",
    key="toy_fid",
    title="Toy FID",
    low=0.0,
    high=math.inf,
    times=1,
    better="lower",
    source="Frechet distance in the features of a classifier of toy frames",
    open=begin_distance,
)
METRICS = (DISTANCE, SIMILARITY)
