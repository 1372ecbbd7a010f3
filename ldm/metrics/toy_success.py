"""Toy success rate: in how many frames the right hand-object event is visible. For the toy world alone.

The rates of single signs tell what a failed frame lacks; they are measured where they are named.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from egogen.annotations import ClipMetadata
from egogen.errors import UserError
from egogen.toy.verdict import signs_seen
from ldm.metrics.accumulators import PerPair
from ldm.metrics.feature_cache import Memory
from ldm.metrics.frames.frame_pairs import PairBatch, Pairs
from ldm.metrics.metric import Accumulator, Metric, MetricSetting, Scale

# The field of a clip's metadata that holds what is to be seen.
FACTS = "signs"


Counts = Callable[[str], bool]  # whether a sign, by what it is, counts


def every_sign(_: str) -> bool:
    """All signs count."""
    return True


def is_hand(what: str) -> bool:
    """The sign that the acting hand is where it belongs."""
    return what == "hand at its new place"


def is_object(what: str) -> bool:
    """The sign that the object is where it belongs."""
    return what == "object at its new place"


def is_place(what: str) -> bool:
    """The signs that hand and object have left their places."""
    return what.endswith("left its place")


def score(
    generated: Float[Tensor, "b 3 h w"], metadata: Sequence[ClipMetadata], counts: Counts = every_sign
) -> Float[Tensor, " b"]:
    """1 for a frame that shows the event its clip's metadata describes, else 0. Frames in [0, 1].

    Source: `egogen.toy.success`, which judges from pixels alone. Only signs that `counts` are asked for.
    """
    frames = rearrange((generated * 255).round().byte(), "b c h w -> b h w c").cpu().numpy()
    seen = [signs_seen(frame, clip) for frame, clip in zip(frames, metadata, strict=True)]
    return torch.tensor(
        [float(all(holds for what, holds in signs.items() if counts(what))) for signs in seen],
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


def begin(setting: MetricSetting, pairs: Pairs, _: Memory, counts: Counts = every_sign) -> Accumulator:
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
        return score(batch.generated, [known[pair.item.clip] for pair in batch.pairs], counts)

    return PerPair(score_batch)


def inputs(setting: MetricSetting, _: Pairs) -> Mapping[str, object]:
    """The facts that frames are judged by, as a digest."""
    plain = {clip: facts.model_dump(mode="json") for clip, facts in needed(setting).items()}
    return {"metadata_sha256": hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()}


def make(name: str, title: str, source: str, counts: Counts, *, is_asked_for: bool = False) -> Metric:
    """One rate; `is_asked_for`: it is measured where it is named alone."""
    return Metric(
        name=name,
        title=title,
        scale=Scale(0.0, 1.0, "higher"),
        source=f"share of frames that show {source}, judged from pixels",
        libraries=("lego-egogen",),
        open=partial(begin, counts=counts),
        applies=lambda setting: not is_asked_for and has_facts(setting.metadata),
        inputs=inputs,
        binary=True,
    )


METRICS = (
    make("toy_success", "Toy success", "the right hand at the right object", every_sign),
    make("toy_hand", "Toy hand", "the hand at its new place", is_hand, is_asked_for=True),
    make("toy_object", "Toy object", "the object at its new place", is_object, is_asked_for=True),
    make("toy_place", "Toy place", "hand and object gone from where they were", is_place, is_asked_for=True),
)
