"""What a metric is: a name, a scale, and something that takes batches and ends in a number."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, TypeVar, cast, runtime_checkable

import torch

from egogen.annotations import ClipMetadata
from egogen.layout import DESCRIPTION_KEY, weights_root
from ldm.metrics import metric_names as rules
from ldm.metrics.feature_cache import Memory
from ldm.metrics.frames.frame_pairs import PairBatch, Pairs
from ldm.metrics.networks.metric_weights import WeightFile

Shared = TypeVar("Shared")


@dataclass(frozen=True)
class MetricSetting:
    """What an evaluation offers its metrics."""

    dataset: str  # some published metrics differ between data sets
    protocol: rules.Protocol = "published"
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    precision: rules.Precision = "32"  # of networks; `tf32` and `bf16` are faster and less exact
    metadata: Mapping[str, ClipMetadata] | None = None  # by clip id, where a metadata file was given
    metadata_file: Path | None = None
    llava_key: str = DESCRIPTION_KEY  # the annotations' key of the text that caption metrics compare with
    input_path: Path | None = None  # folder of the split's frames; None for `val` beside the targets
    batch_size: int = 32  # pairs at a time; no result depends on it
    root: Path = field(default_factory=weights_root)  # folder of weight files
    weights: Mapping[str, Path] = field(default_factory=dict)  # paths of those in use by published name
    opened: dict[str, object] = field(default_factory=dict, repr=False, compare=False)  # see `once`

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
    """A metric of a whole run."""

    mean: float  # over all items; infinite as soon as one value is (as published, F-EV-05)
    standard_error: float | None  # of the mean; None for fewer than two items or an infinite mean
    n: int  # items
    infinite: int = 0  # infinite values (the PSNR of identical images)
    finite_mean: float | None = None  # of the finite values; None if there are none
    values: Mapping[str, float] = field(default_factory=dict)  # by frame name, where a metric has such values
    captions: Mapping[str, str] = field(default_factory=dict)  # by frame name: what a captioning metric saw


@runtime_checkable
class Accumulator(Protocol):
    """Takes the batches of one evaluation and ends in a result."""

    def update(self, batch: PairBatch) -> None:
        """Takes a batch."""

    def compute(self) -> Result:
        """The result over all batches so far."""


class Scale(NamedTuple):
    """The values that a metric takes, and how tables show them."""

    low: float  # smallest possible
    high: float  # largest possible
    better: Literal["higher", "lower"]
    unit: str = ""  # such as `dB`; empty for a plain number
    times: int = 1  # by what tables multiply it, as the paper's do


COSINE = Scale(-1.0, 1.0, "higher", times=100)
DISTANCE = Scale(0.0, math.inf, "lower")


@dataclass(frozen=True)
class Metric:
    """A metric's definition."""

    name: str  # as in `--metrics`
    title: str  # its name in tables
    scale: Scale
    source: str  # of the definition
    libraries: tuple[str, ...]  # packages whose versions go with the result
    # Makes the accumulator of one evaluation; a UserError here comes before any work.
    open: Callable[[MetricSetting, Pairs, Memory], Accumulator]
    # Whether it belongs to the default set under a setting.
    applies: Callable[[MetricSetting], bool] = lambda _: True
    weights: Callable[[MetricSetting], Sequence[WeightFile]] = lambda _: ()
    # What besides the images, the weights and the protocol decides the value, as JSON values; a stored result
    # with other inputs is computed again.
    inputs: Callable[[MetricSetting, Pairs], Mapping[str, object]] = lambda *_: {}
    fewest: int = 1  # pairs
    binary: bool = False  # whether an item's value is 1 for right or 0 for wrong, and the mean a rate

    @property
    def key(self) -> str:
        """Its name in `metric.json`, as published."""
        return rules.KEYS[self.name]
