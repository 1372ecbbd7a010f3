"""How batches become a result: means of pairs, what is kept between evaluations, what metrics share."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from pathlib import Path
from string import ascii_lowercase

import numpy as np
import pytest
import torch
from torch import Tensor

from egogen.annotations import Action, Item
from egogen.errors import UserError
from ldm.metrics.accumulators import PerPair, features, paired, similarity
from ldm.metrics.feature_cache import Memory, Store
from ldm.metrics.fid import Distance
from ldm.metrics.frames.frame_names import FrameNames
from ldm.metrics.frames.frame_pairs import PairBatch, Side
from ldm.metrics.frames.images import Size
from ldm.metrics.frames.pair_table import Pair
from ldm.metrics.metric import COSINE, Metric, MetricSetting
from ldm.metrics.networks.metric_weights import CLIP, INCEPTION
from tests.ldm.evaluation.made_pairs import made_pairs

CPU = torch.device("cpu")
LETTERS = FrameNames(ascii_lowercase)


def make_batch(names: str, generated: Tensor | None = None, reference: Tensor | None = None) -> PairBatch:
    """A pair a letter, which is its frame, and its content; upper case on the side of the targets."""
    item, sizes = Item("clip", "act", Action({"action": "cuts"})), (Size(8, 8), Size(8, 8))
    pairs = [
        Pair(item, name, Path(f"drawn/{name}"), Path(f"true/{name}"), sizes, (name, name.upper()))
        for name in names
    ]
    batch = PairBatch(pairs, CPU, LETTERS, [ord(name) - ord("a") for name in names])
    for side, images in (("generated", generated), ("reference", reference)):
        vars(batch)[side] = torch.zeros(len(names), 3, 8, 8) if images is None else images
    return batch


def scored(values: dict[str, float]) -> Callable[[PairBatch], Tensor]:
    """A score that is known of each frame."""
    return lambda batch: torch.tensor([values[pair.frame] for pair in batch.pairs])


def test_the_mean_of_pairs_and_how_sure_it_is() -> None:
    """Of 6, 1, 2 the variance is 7, and the standard error the root of 7 / 3."""
    metric = PerPair(scored({"c": 6.0, "a": 1.0, "b": 2.0}), {"b": "two", "a": "one"})
    metric.update(make_batch("ca"))
    metric.update(make_batch("b"))
    found = metric.compute()
    assert (found.mean, found.n, found.infinite, found.finite_mean) == (3.0, 3, 0, 3.0)
    assert found.standard_error == pytest.approx((7 / 3) ** 0.5)
    assert [*found.values.items()] == [("a", 1.0), ("b", 2.0), ("c", 6.0)]
    assert [*found.captions.items()] == [("a", "one"), ("b", "two")]


def test_one_pair_and_infinite_values_have_no_standard_error() -> None:
    def measured(**values: float) -> PerPair:
        metric = PerPair(scored(values))
        metric.update(make_batch("".join(values)))
        return metric

    one = measured(a=5.0).compute()
    assert (one.mean, one.standard_error, one.n, one.finite_mean, one.captions) == (5.0, None, 1, 5.0, {})
    two = measured(a=5.0, b=7.0).compute()
    assert (two.mean, two.standard_error) == (6.0, 1.0)
    some = measured(a=math.inf, b=1.0, c=3.0).compute()
    assert (some.mean, some.standard_error, some.n) == (math.inf, None, 3)
    assert (some.infinite, some.finite_mean) == (1, 2.0)
    every = measured(a=math.inf, b=math.inf).compute()
    assert (every.mean, every.infinite, every.finite_mean) == (math.inf, 2, None)


def test_a_value_that_is_no_number_names_its_frame() -> None:
    with pytest.raises(UserError) as told:
        PerPair(scored({"a": 1.0, "b": math.nan})).update(make_batch("ab"))
    assert str(told.value) == (
        "drawn/b: the score is not a number; fetch the metric's weights again, or measure with --precision 32"
    )


def test_every_pair_of_a_batch_has_a_value() -> None:
    with pytest.raises(ValueError, match="shorter"):
        PerPair(lambda _: torch.zeros(1)).update(make_batch("ab"))


def test_pairs_of_pixels_are_compared_at_the_target_s_size_and_once(tmp_path: Path) -> None:
    seen: list[tuple[int, ...]] = []

    def score(a: Tensor, b: Tensor) -> Tensor:
        seen.append(tuple(a.shape))
        assert a.shape == b.shape
        return (a - b).mean((1, 2, 3))

    def measure(names: str, store: Store | None) -> dict[str, float]:
        drawn = torch.tensor([ord(name) for name in names]).float().view(-1, 1, 1, 1).expand(-1, 3, 4, 6)
        metric = paired(score, Memory("kind", store, None))
        metric.update(make_batch(names, drawn, torch.ones(len(names), 3, 8, 6)))
        return dict(metric.compute().values)

    store = Store(tmp_path / "x.sqlite")
    assert measure("ab", store) == {"a": 96.0, "b": 97.0}
    assert measure("bca", store) == {"a": 96.0, "b": 97.0, "c": 98.0}
    assert seen == [(2, 3, 8, 6), (1, 3, 8, 6)]  # of the second batch the new pair alone
    assert measure("ab", None) == {"a": 96.0, "b": 97.0}
    assert seen[2:] == [(2, 3, 8, 6)]


@pytest.mark.parametrize(("precision", "fewer"), [("32", False), ("bf16", True)])
def test_a_network_sees_one_side_in_the_precision_that_is_asked_for(precision: str, fewer: bool) -> None:
    setting = MetricSetting("ego4d", "corrected", precision=precision)  # type: ignore[arg-type]
    asked: list[tuple[object, ...]] = []

    def embed(network: str, images: Tensor, protocol: str) -> Tensor:
        asked.append((network, protocol, torch.is_autocast_enabled("cpu"), float(images[0, 0, 0, 0])))
        return images.flatten(1)[:, :2]

    vectors = features(setting, Memory(), "a network", embed)
    batch = make_batch("a", torch.full((1, 3, 8, 8), 0.25), torch.full((1, 3, 8, 8), 0.5))
    assert vectors(batch, "generated").tolist() == [[0.25, 0.25]]
    assert vectors(batch, "reference").tolist() == [[0.5, 0.5]]
    assert asked == [("a network", "corrected", fewer, 0.25), ("a network", "corrected", fewer, 0.5)]
    if fewer:
        with setting.autocast():
            assert torch.get_autocast_dtype("cpu") == torch.bfloat16


def test_features_are_kept_with_those_of_their_side(tmp_path: Path) -> None:
    stores = Store(tmp_path / "own.sqlite"), Store(tmp_path / "targets.sqlite")
    seen: list[int] = []

    def embed(_: str, images: Tensor, _protocol: str) -> Tensor:
        seen.append(len(images))
        return images.flatten(1)[:, :2]

    vectors = features(MetricSetting("ego4d"), Memory("kind", *stores), "a network", embed)
    batch = make_batch("ab", torch.full((2, 3, 8, 8), 0.25), torch.full((2, 3, 8, 8), 0.5))
    for _ in range(2):  # the second time all is known
        assert vectors(batch, "generated").tolist() == [[0.25, 0.25]] * 2
        assert vectors(batch, "reference").tolist() == [[0.5, 0.5]] * 2
    assert seen == [2, 2]
    assert [[*store.read("kind", [*"aAbB"])] for store in stores] == [["a", "b"], ["A", "B"]]


def test_similarity_is_the_cosine_between_both_sides() -> None:
    sides = {"generated": torch.tensor([[3.0, 0.0], [1.0, 1.0]]), "reference": torch.tensor([[0.0, 2.0]] * 2)}
    metric = similarity(lambda _, side: sides[side])
    metric.update(make_batch("ab"))
    assert metric.compute().values == pytest.approx({"a": 0.0, "b": 0.5**0.5})


@pytest.mark.parametrize(("side", "path"), [("generated", "drawn/b"), ("reference", "true/b")])
def test_features_that_are_no_numbers_name_their_frame(side: Side, path: str) -> None:
    def vectors(_: PairBatch, asked: Side) -> Tensor:
        return torch.tensor([[0.0, 1.0], [0.0, math.inf if asked == side else 1.0]])

    with pytest.raises(UserError, match=f"^{path}: the features of this frame are not finite; fetch the"):
        Distance(vectors).update(make_batch("ab"))


def test_what_is_known_is_not_computed_again(tmp_path: Path) -> None:
    """Nor what a batch holds twice. What is no number is not kept."""
    store = Store(tmp_path / "x.sqlite")
    memory = Memory("kind", store, None)
    asked: list[list[int]] = []

    def recall(keys: str, value: float = 0.0) -> list[float]:
        def compute(chosen: list[int]) -> Tensor:
            asked.append(chosen)
            return torch.tensor([[ord(keys[index]) + value] for index in chosen])

        return memory.recall(memory.store("generated"), list(keys), compute).flatten().tolist()

    assert recall("abba") == [97, 98, 98, 97]
    assert recall("cab", 1.0) == [100, 97, 98]
    assert recall("ab") == [97, 98]
    assert asked == [[0, 1], [0]]
    assert [math.isnan(value) for value in recall("ad", math.nan)] == [False, True]
    assert recall("d") == [100]
    assert asked[2:] == [[1], [0]]
    assert store.read("other", ["a"]) == {}
    assert memory.store("reference") is None
    kept = memory.recall(None, ["a", "a"], lambda chosen: torch.tensor(chosen)[:, None])
    assert kept.tolist() == [[0], [1]]
    with pytest.raises(ValueError, match="shorter"):
        memory.recall(store, ["e", "f"], lambda chosen: torch.tensor(chosen[1:])[:, None])


def test_a_store_takes_over_what_another_keeps_and_its_own_counts(tmp_path: Path) -> None:
    one, other = Store(tmp_path / "one.sqlite"), Store(tmp_path / "other.sqlite")
    assert one.read("k", ["a"]) == {}
    assert not one.path.exists()  # who reads makes no file
    one.write("k", {"a": np.array([1.0])})
    other.write("k", {"a": np.array([2.0]), "b": np.array([3.0])})
    one.take(other.path)
    found = Store(one.path).read("k", ["a", "b"])
    assert {key: value.tolist() for key, value in found.items()} == {"a": [1.0], "b": [3.0]}


def test_a_store_that_cannot_be_used_is_told_once_and_left_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "x.sqlite"
    path.write_bytes(b"no database" * 99)
    store = Store(path)
    with caplog.at_level(logging.WARNING):
        assert store.read("k", ["a"]) == {}
        store.write("k", {"a": np.array([1.0])})
        store.take(tmp_path / "other.sqlite")
    assert caplog.messages == [
        f"{path}: cannot keep vectors here (file is not a database); delete the file if it is damaged"
    ]
    assert path.read_bytes() == b"no database" * 99


def test_metrics_share_what_they_open() -> None:
    weights = {CLIP.name: Path("clip.pt"), INCEPTION.name: Path("other.pth")}
    setting = MetricSetting("ego4d", weights=weights)
    made: list[object] = []

    def load(path: Path, device: torch.device) -> str:
        made.append((path, device))
        return f"network {len(made)}"

    assert [setting.network(CLIP, load) for _ in range(2)] == ["network 1"] * 2
    assert setting.network(INCEPTION, load) == "network 2"
    assert made == [(Path("clip.pt"), CPU), (Path("other.pth"), CPU)]
    assert setting.once("other", lambda: 3) == setting.once("other", lambda: 4) == 3
    assert MetricSetting("ego4d").opened == {}


def test_a_metric_needs_nothing_unless_it_says_so() -> None:
    setting, pairs = MetricSetting("ego4d"), made_pairs()
    metric = Metric("clip", "CLIP", COSINE, "", (), lambda *_: PerPair(scored({})))
    assert metric.key == "clip_image_sim"
    assert metric.applies(setting)
    assert (metric.weights(setting), metric.inputs(setting, pairs)) == ((), {})
    assert (metric.fewest, metric.binary) == (1, False)
