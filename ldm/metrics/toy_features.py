"""Distance and similarity in the features of a classifier of toy frames. For the toy world alone.

They stand where FID and CLIP similarity stand in the paper's table, and are neither: the classifier knows
nothing but the toy world. Both protocols are the same.
"""

from __future__ import annotations

from dataclasses import replace

from ldm.metrics.accumulators import Vectors, remembered, similarity
from ldm.metrics.feature_cache import Memory
from ldm.metrics.fid import Distance
from ldm.metrics.metric import COSINE, DISTANCE, Metric, MetricSetting
from ldm.metrics.networks.metric_weights import TOY_CLASSIFIER
from ldm.metrics.networks.toy_classifier import load_classifier


def vectors(setting: MetricSetting, memory: Memory) -> Vectors:
    """Features of the classifier, the same in every protocol and precision."""
    network = setting.network(TOY_CLASSIFIER, load_classifier)
    return remembered(lambda batch, side, chosen: network.embed(batch.images(side)[chosen]), memory)


SIMILARITY = Metric(
    name="toy_similarity",
    title="Toy similarity",
    scale=COSINE,
    source="cosine of the features of a classifier of toy frames",
    libraries=("lego-egogen",),
    open=lambda setting, _, memory: similarity(vectors(setting, memory)),
    applies=lambda _: False,
    weights=lambda _: (TOY_CLASSIFIER,),
)
METRICS = (
    replace(
        SIMILARITY,
        name="toy_fid",
        title="Toy FID",
        scale=DISTANCE,
        source="Frechet distance in the features of a classifier of toy frames",
        open=lambda setting, _, memory: Distance(vectors(setting, memory)),
        fewest=2,
    ),
    SIMILARITY,
)
