"""What a metric is: a name, a scale, and something that takes batches and ends in a number."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, TypeVar, cast, runtime_checkable

import torch

from egogen.annotations import DESCRIPTION_KEY, ClipMetadata
from egogen.layout import weights_root
from ldm.metrics.feature_cache import Memory
from ldm.metrics.frames import protocol as rules
from ldm.metrics.frames.frame_pairs import PairBatch, Pairs
from ldm.metrics.networks.metric_weights import WeightFile

Shared = TypeVar("Shared")


@dataclass(frozen=True)
class MetricSetting:
    """What an evaluation offers its metrics.

    Args:
        dataset: `ego4d` or `epickitchen`; some published metrics differ between them.
        protocol: `published` or `corrected`.
        device: where to compute.
        precision: of networks: `32`; `tf32` and `bf16` are faster and less exact.
        metadata: by clip id, where a metadata file was given.
        metadata_file: that file.
        llava_key: the annotations' key of the text that caption metrics compare with.
        input_path: folder of the split's frames; None for `val` beside the targets.
        batch_size: pairs at a time; no result depends on it.
        root: folder of weight files.
        weights: paths of those that are used, by published name.
        opened: what metrics share, by name.
    """

    dataset: str
    protocol: rules.Protocol = "published"
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    precision: rules.Precision = "32"
    metadata: Mapping[str, ClipMetadata] | None = None
    metadata_file: Path | None = None
    llava_key: str = DESCRIPTION_KEY
    input_path: Path | None = None
    batch_size: int = 32
    root: Path = field(default_factory=weights_root)
    weights: Mapping[str, Path] = field(default_factory=dict)
    opened: dict[str, object] = field(default_factory=dict, repr=False, compare=False)

    def autocast(self) -> torch.autocast:
        """Multiplies in bfloat16 within a `with` block if that precision was asked for."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def once(self, name: str, load: Callable[[], Shared]) -> Shared:
        """What several metrics share, made when the first of them asks."""
        if name not in self.opened:
            self.opened[name] = load()
        return cast("Shared", self.opened[name])

    def network(self, file: WeightFile, load: Callable[[Path, torch.device], Shared]) -> Shared:
        """The network of a weight file, loaded once."""
        path = self.weights[file.name]
        return self.once(str(path), lambda: load(path, self.device))


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

    def update(self, batch: PairBatch) -> None:
        """Takes a batch."""

    def compute(self) -> Result:
        """The result over all batches so far."""


class Scale(NamedTuple):
    """The values that a metric takes, and how tables show them.

    Args:
        low: smallest possible value.
        high: largest possible value.
        better: whether higher or lower values are better.
        unit: such as `dB`; empty for a plain number.
        times: by what tables multiply it, as the paper's do.
    """

    low: float
    high: float
    better: Literal["higher", "lower"]
    unit: str = ""
    times: int = 1


COSINE = Scale(-1.0, 1.0, "higher", times=100)
DISTANCE = Scale(0.0, math.inf, "lower")


@dataclass(frozen=True)
class Metric:
    """A metric's definition.

    Args:
        name: its id, as in `--metrics`.
        key: its name in `metric.json`, as published.
        title: its name in tables.
        scale: range, direction and unit of its values.
        source: where the definition comes from.
        libraries: packages whose versions go with the result.
        open: makes the accumulator of one evaluation; a UserError here comes before any work.
        applies: whether the metric belongs to the default set under a setting.
        weights: weight files that it needs.
        inputs: what besides the images, the weights and the protocol decides the value, as JSON values; a
            stored result with other inputs is computed again.
        fewest: how many pairs it needs.
        binary: whether an item's value is 1 for right or 0 for wrong, and the mean a rate.
    """

    name: str
    key: str
    title: str
    scale: Scale
    source: str
    libraries: tuple[str, ...]
    open: Callable[[MetricSetting, Pairs, Memory], Accumulator]
    applies: Callable[[MetricSetting], bool] = lambda _: True
    weights: Callable[[MetricSetting], Sequence[WeightFile]] = lambda _: ()
    inputs: Callable[[MetricSetting, Pairs], Mapping[str, object]] = lambda *_: {}
    fewest: int = 1
    binary: bool = False
