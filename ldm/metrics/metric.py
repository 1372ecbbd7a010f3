"""What a metric is: a name, a range, a direction, and something that takes batches and ends in a number."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from egogen.annotations import DESCRIPTION_KEY, ClipMetadata
from ldm.metrics.feature_cache import Memory
from ldm.metrics.frames import protocol as rules
from ldm.metrics.frames.frame_pairs import Batch, Pairs
from ldm.metrics.networks.weight_files import WeightFile

Network = TypeVar("Network")


@dataclass(frozen=True)
class Setting:
    """What an evaluation offers its metrics.

    Args:
        dataset: `ego4d` or `epickitchen`; some published metrics differ between them.
        protocol: `published` or `corrected`.
        device: where to compute.
        precision: of networks: `32`; `tf32` and `bf16` are faster and less exact.
        metadata: by clip id, where a metadata file was given.
        llava_key: the annotations' key of the text that caption metrics compare with.
        input_path: folder of the split's frames; None for `val` beside the targets.
        weights: paths of weight files by published name.
        networks: those that were opened, by path.
    """

    dataset: str
    protocol: rules.Protocol = "published"
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    precision: rules.Precision = "32"
    metadata: Mapping[str, ClipMetadata] | None = None
    llava_key: str = DESCRIPTION_KEY
    input_path: Path | None = None
    weights: Mapping[str, Path] = field(default_factory=dict)
    networks: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def autocast(self) -> torch.autocast:
        """Multiplies in bfloat16 within a `with` block if that precision was asked for."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def once(self, name: str, load: Callable[[], Network]) -> Network:
        """A network that several metrics share, loaded when the first of them asks."""
        if name not in self.networks:
            self.networks[name] = load()
        network: Network = self.networks[name]
        return network


@dataclass(frozen=True)
class Result:
    """A metric of a whole run.

    Args:
        mean: over all items; infinite as soon as one value is (as published, F-EV-05).
        standard_error: of the mean; None for fewer than two items or an infinite mean.
        n: number of items.
        infinite: number of infinite values (the PSNR of identical images).
        finite_mean: mean of the finite values; None if there are none.
        values: value of each item by frame name; empty where a metric has no such values.
        captions: what a captioning metric saw in each frame, by its name.
    """

    mean: float
    standard_error: float | None
    n: int
    infinite: int = 0
    finite_mean: float | None = None
    values: Mapping[str, float] = field(default_factory=dict)
    captions: Mapping[str, str] = field(default_factory=dict)


@runtime_checkable
class Accumulator(Protocol):
    """Takes the batches of one evaluation and ends in a result."""

    def update(self, batch: Batch) -> None:
        """Takes a batch."""

    def compute(self) -> Result:
        """The result over all batches so far."""


@dataclass(frozen=True)
class Metric:
    """A metric's definition.

    Args:
        name: its id, as in `--metrics`.
        key: its name in `metric.json`, as published.
        title: its name in tables.
        low: smallest possible value.
        high: largest possible value.
        unit: such as `dB`; empty for a plain number.
        times: by what tables multiply it, as the paper's do.
        better: whether higher or lower values are better.
        source: where the definition comes from.
        libraries: packages whose versions go with the result.
        open: makes the accumulator of one evaluation; a UserError here comes before any work.
        applies: whether the metric belongs to the default set under a setting.
        weights: weight files that it needs.
        inputs: what besides the images, the weights and the protocol decides the value, as JSON values; a
            stored result with other inputs is computed again.
        binary: whether an item's value is 1 for right or 0 for wrong, and the mean a rate.
    """

    name: str
    key: str
    title: str
    low: float
    high: float
    unit: str
    better: Literal["higher", "lower"]
    source: str
    libraries: tuple[str, ...]
    open: Callable[[Setting, Pairs, Memory], Accumulator]
    applies: Callable[[Setting], bool] = lambda _: True
    weights: Callable[[Setting], Sequence[WeightFile]] = lambda _: ()
    inputs: Callable[[Setting, Pairs], Mapping[str, object]] = lambda *_: {}
    times: int = 1
    binary: bool = False


class PerPair:
    """Accumulates a score of single pairs; the mean is taken in float64, in the order of the frame names.

    Args:
        score: batch -> [b].
    """

    def __init__(self, score: Callable[[Batch], Float[Tensor, " b"]]) -> None:
        self.score = score
        self.values: dict[str, float] = {}

    def update(self, batch: Batch) -> None:
        """Scores a batch.

        Raises:
            ValueError: a score is not a number.
        """
        scores = self.score(batch).tolist()
        for pair, value in zip(batch.pairs, scores, strict=True):
            if math.isnan(value):
                raise ValueError(f"{pair.generated}: the score is not a number")
            self.values[pair.frame] = value

    def compute(self) -> Result:
        """Mean and standard error over all pairs."""
        values = {frame: self.values[frame] for frame in sorted(self.values)}
        finite = [value for value in values.values() if math.isfinite(value)]
        n, infinite = len(values), len(values) - len(finite)
        finite_mean = math.fsum(finite) / len(finite) if finite else None
        mean = math.inf if infinite or finite_mean is None else finite_mean
        error = None
        if n > 1 and not infinite:
            variance = math.fsum((value - mean) ** 2 for value in finite) / (n - 1)
            error = math.sqrt(variance / n)
        return Result(mean, error, n, infinite, finite_mean, values)


def paired(
    score: Callable[[Float[Tensor, "b 3 h w"], Float[Tensor, "b 3 h w"]], Float[Tensor, " b"]], memory: Memory
) -> Accumulator:
    """A metric that compares pixels: generated frames are brought to the size of their targets."""

    def score_batch(batch: Batch) -> Float[Tensor, " b"]:
        keys = [f"{a}:{b}" for a, b in zip(batch.hashes("generated"), batch.hashes("reference"), strict=True)]

        def compute(chosen: list[int]) -> Float[Tensor, "k 1"]:
            reference = batch.reference[chosen]
            return score(rules.match_size(batch.generated[chosen], reference), reference)[:, None]

        return memory.recall(memory.generated, keys, compute).squeeze(1)

    return PerPair(score_batch)
