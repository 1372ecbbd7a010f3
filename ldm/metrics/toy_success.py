"""Toy success rate: in how many frames the right hand-object event is visible. For the toy world alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from egogen.annotations import ClipMetadata
from egogen.errors import UserError
from egogen.toy import success
from ldm.metrics.accumulators import PerPair
from ldm.metrics.feature_cache import Memory
from ldm.metrics.frames.frame_pairs import PairBatch, Pairs
from ldm.metrics.metric import Accumulator, Metric, MetricSetting, Scale

# The field of a clip's metadata that holds what is to be seen.
FACTS = "signs"


def score(generated: Float[Tensor, "b 3 h w"], metadata: Sequence[ClipMetadata]) -> Float[Tensor, " b"]:
    """1 for a frame that shows the event its clip's metadata describes, else 0. Frames in [0, 1].

    Source: `egogen.toy.success`, which judges from pixels alone.
    """
    frames = rearrange((generated * 255).round().byte(), "b c h w -> b h w c").cpu().numpy()
    return torch.tensor(
        [float(success(frame, clip)) for frame, clip in zip(frames, metadata, strict=True)],
        device=generated.device,
    )


def has_facts(metadata: Mapping[str, ClipMetadata] | None) -> bool:
    """Whether a metadata file describes toy clips."""
    return bool(metadata) and all(FACTS in (clip.model_extra or {}) for clip in (metadata or {}).values())


def needed(setting: MetricSetting) -> Mapping[str, ClipMetadata]:
    """The metadata of an evaluation; a `UserError` tells that there is none."""
    if setting.metadata is None:
        raise UserError("metric 'toy_success' needs --metadata FILE: what each clip should show")
    return setting.metadata


def begin(setting: MetricSetting, pairs: Pairs, _: Memory) -> Accumulator:
    """Opens the metric.

    Raises:
        UserError: there is no metadata, it is not of the toy world, or a clip is not in it.
    """
    known = needed(setting)
    if not has_facts(known):
        raise UserError(
            f"metric 'toy_success': the metadata has clips without the field {FACTS!r}; only data made by "
            "python -m egogen.toy has it"
        )
    absent = [pair.item.clip for pair in pairs.pairs if pair.item.clip not in known]
    if absent:
        raise UserError(
            f"metric 'toy_success': the metadata has no clip {absent[0]!r}; give that of this split"
        )

    def score_batch(batch: PairBatch) -> Float[Tensor, " b"]:
        return score(batch.generated, [known[pair.item.clip] for pair in batch.pairs])

    return PerPair(score_batch)


def inputs(setting: MetricSetting, _: Pairs) -> Mapping[str, object]:
    """The facts that frames are judged by, as a digest."""
    plain = {clip: facts.model_dump(mode="json") for clip, facts in needed(setting).items()}
    return {"metadata_sha256": hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()}


METRIC = Metric(
    name="toy_success",
    title="Toy success",
    scale=Scale(0.0, 1.0, "higher"),
    source="share of frames that show the right hand at the right object, judged from pixels",
    libraries=("lego-egogen",),
    open=begin,
    applies=lambda setting: has_facts(setting.metadata),
    inputs=inputs,
    binary=True,
)
