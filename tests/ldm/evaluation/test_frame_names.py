"""Names, pairs and values in arrays: what they hold, and how little memory of each."""

from __future__ import annotations

import hashlib
import json
import tracemalloc
from array import array
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import bootstrap

from egogen.annotations import Action, Item
from egogen.files import write_json
from egogen.packed_frames import DrawnFrames
from ldm.metrics.accumulators import of_places
from ldm.metrics.frames.frame_names import ByFrame, FrameNames
from ldm.metrics.frames.images import Header, Size
from ldm.metrics.frames.pair_table import FoundFrames, PairTable
from ldm.metrics.metric import Result
from ldm.metrics.registry import METRICS
from ldm.metrics.results import intervals
from ldm.metrics.results.result_files import PER_SAMPLE, Measured, per_sample, stored_values
from tests.ldm.evaluation.made_pairs import made_pairs

ITEM = Item("clip", "act", Action({"action": "cuts"}))
NAMES = st.lists(st.text(st.sampled_from("ab/.é中\U0001f600\n"), max_size=5), unique=True)


@settings(max_examples=15)
@given(NAMES, st.data())
def test_names_and_what_belongs_to_them_are_as_a_dict_has_them(names: list[str], data: Any) -> None:
    table, has = FrameNames(names), data.draw(st.lists(st.sampled_from(names or [""]), unique=True))
    assert ([*table], len(table)) == (names, len(names))
    assert [table[place] for place in table.order] == sorted(names)
    expected = {name: float(names.index(name)) for name in sorted(has) if names}
    places = array("q", [names.index(name) for name in has if names])
    found = of_places(table, places, array("d", map(float, places)))
    assert [*found.items()] == [*zip(found, found.values(), strict=True)] == [*expected.items()]
    assert found == expected
    assert all((name in found) == (name in expected) for name in [*names, "", "zz"])
    assert all(type(value) is float for value in found.values())


def test_pairs_of_a_million_would_fit() -> None:
    """Beside its name and item a pair takes 80 bytes, and each value of it 12."""
    count = 600
    formats = np.zeros(count, np.uint8)
    files = tuple(FoundFrames(DrawnFrames(Path(name)), formats) for name in ("drawn", "true"))
    tracemalloc.start()
    try:
        names = FrameNames(f"clip/{number:03d}/x.jpg" for number in range(count))
        table = PairTable([ITEM] * count, names, files)  # type: ignore[arg-type]  # two
        for number in range(count):
            sha256 = hashlib.sha256(b"%d" % number).hexdigest()
            table.add(*[Header(Size(8, 8 + number % 2), "JPEG", sha256)] * 2)
        values = [of_places(names, array("q", range(count)), array("d", range(count))) for _ in range(2)]
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert [len(each) for each in values] == [count, count]
    own = len(names.text) + 8 * count  # and the list of items, which the annotations hold
    assert (held - own) / count < 150


def test_groups_are_of_equal_sizes_in_the_order_they_came() -> None:
    table = made_pairs(**{f"{number}": ITEM for number in range(5)}).pairs
    table.sizes = array("i", [0, 1, 0, 2, 1])
    assert [group.tolist() for group in table.groups()] == [[0, 2], [1, 4], [3]]


@pytest.mark.parametrize(
    "values", [{}, {"a": {}}, {"a": {"x/é": 1.5, "y": float("inf")}, "b": {}, "c": {"x": 1e-7}}]
)
def test_rows_are_written_as_json_is(values: dict[str, dict[str, float]], tmp_path: Path) -> None:
    measured = {
        name: Measured(METRICS["psnr"], Result(1.0, None, 1, values=of), {}) for name, of in values.items()
    }
    finite = {
        name: {frame: None if value == float("inf") else value for frame, value in of.items()}
        for name, of in values.items()
    }
    write_json(tmp_path / "witness.json", finite)
    assert "".join(per_sample(measured)).encode() == (tmp_path / "witness.json").read_bytes()


def test_stored_values_are_those_of_the_frames(tmp_path: Path) -> None:
    """Of metrics that are asked for; a file that is written otherwise is read as a whole."""
    path, names = tmp_path / PER_SAMPLE.name, FrameNames(["b", "a"])
    stored = {"psnr": {"a": 1.5, "b": None}, "fid": {}, "ssim": {"a": 1}}
    for text in (json.dumps(stored, indent=4), json.dumps(stored | {"odd": 3})):
        path.write_text(text)
        found = stored_values(path, {"psnr", "fid"}, names)
        assert {name: dict(of) for name, of in found.items()} == {
            "psnr": {"a": 1.5, "b": float("inf")}, "fid": {}
        }  # fmt: skip
        assert isinstance(found["psnr"], ByFrame)
        with pytest.raises(KeyError):
            stored_values(path, {"ssim"}, names)


def test_intervals_are_the_same_however_many_resamples_are_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(1).normal(size=300)
    witness = bootstrap(
        (values,), np.mean, n_resamples=100, batch=64, method="percentile", confidence_level=0.95,
        rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    for most in (1 << 21, 2100, 900, 1):
        monkeypatch.setattr(intervals, "MOST", most)
        assert intervals.interval(values, 100) == [witness.low, witness.high]
