"""The files of an evaluation: what is written, and what a later evaluation takes of them."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet

from egogen.annotations import Action, Item
from egogen.errors import UserError
from ldm.metrics.frames.frame_pairs import Pairs
from ldm.metrics.metric import Result
from ldm.metrics.registry import METRICS
from ldm.metrics.results import result_files as files
from ldm.metrics.results import samples
from ldm.metrics.results.intervals import interval
from ldm.metrics.results.result_files import Measured
from tests.ldm.evaluation.made_pairs import made_pairs

FRAMES = ["a/1/x.jpg", "a/2/x.jpg", "b/1/x.jpg"]
CAPTIONS = {"a/1/x.jpg": " a cup", "a/2/x.jpg": " é", "b/1/x.jpg": ""}


def pairs_of(*frames: str) -> Pairs:
    """Pairs of frames that no file holds."""
    return made_pairs(**{frame: Item(*frame.split("/")[:2], Action({})) for frame in frames})


PAIRS = pairs_of(*FRAMES)
# PSNR of three frames, one of which equals its target.
PSNR = Measured(
    METRICS["psnr"],
    Result(math.inf, None, 3, 1, 15.0, {"a/1/x.jpg": 10.0, "a/2/x.jpg": math.inf, "b/1/x.jpg": 20.0}),
    {"images": "1"},
)
BLIP = Measured(
    METRICS["blip_base"],
    Result(0.5, 0.25, 3, 0, 0.5, {"a/1/x.jpg": 0.0, "a/2/x.jpg": 0.5, "b/1/x.jpg": 1.0}, CAPTIONS),
    {"images": "1", "key": "told"},
)
FID = Measured(METRICS["fid"], Result(7.0, None, 3, finite_mean=7.0), {"images": "1"})
ALL = {"psnr": PSNR, "blip_base": BLIP, "fid": FID}
ABOUT = {"name": "lego", "dataset": "ego4d", "protocol": "published", "n": 3, "images": "of the run"}


def read(path: Path) -> Any:
    return json.loads(path.read_text())


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run whose three metrics were measured."""
    files.write(tmp_path, ABOUT, ALL, PAIRS, 0)
    return tmp_path


def test_what_is_written(run: Path) -> None:
    assert sorted(path.name for path in (run / "metric").iterdir()) == [
        "blip.json", "details.json", "metric.json", "per_sample.json",
    ]  # fmt: skip
    assert read(run / "metric/metric.json") == {"psnr": math.inf, "blip_base_egovlp_sim": 0.5, "fid": 7.0}
    assert read(run / "metric/per_sample.json") == {
        "psnr": {"a/1/x.jpg": 10.0, "a/2/x.jpg": None, "b/1/x.jpg": 20.0},
        "blip_base": {"a/1/x.jpg": 0.0, "a/2/x.jpg": 0.5, "b/1/x.jpg": 1.0},
        "fid": {},
    }
    assert read(run / "metric/blip.json") == {"a": {"1": " a cup", "2": " é"}, "b": {"1": ""}}
    details = read(run / "metric/details.json")
    entries = details.pop("metrics")
    assert details == {**ABOUT, "bootstrap": 0}
    assert list(entries) == ["psnr", "blip_base", "fid"]
    assert entries["psnr"] == {
        "key": "psnr", "title": "PSNR", "unit": "dB", "times": 1, "range": [0.0, None], "better": "higher",
        "binary": False, "source": METRICS["psnr"].source, "mean": None, "standard_error": None,
        "interval_95": None, "n": 3, "infinite": 1, "finite_mean": 15.0, "provenance": {"images": "1"},
    }  # fmt: skip
    assert entries["blip_base"]["standard_error"] == 0.25
    assert entries["blip_base"]["range"] == [-1.0, 1.0]
    assert entries["blip_base"]["provenance"] == {"images": "1", "key": "told"}


def test_an_interval_is_of_as_many_resamples_as_were_asked_for() -> None:
    few, more = (interval(BLIP.result.values.values(), resamples) for resamples in (20, 50))
    assert few != more
    assert files.entry(BLIP, 20)["interval_95"] == few
    assert files.entry(BLIP, 50)["interval_95"] == more


def test_what_was_written_is_taken_again(run: Path) -> None:
    """Where the provenance is as asked for; of what is not asked the file may tell more."""
    wanted = {name: measured.provenance for name, measured in ALL.items()}
    assert files.known(run, wanted, PAIRS) == ALL
    assert files.known(run, {"blip_base": {"key": "told"}, "psnr": {"images": "2"}}, PAIRS) == {
        "blip_base": BLIP
    }
    assert files.known(run, {"psnr": {"images": "1", "more": 1}, "fid": {}, "clip": {}}, PAIRS) == {
        "fid": FID
    }
    assert files.stored_names(run) == {*ALL}
    assert files.known(run / "other", wanted, PAIRS) == {}
    assert files.stored_names(run / "other") == set()


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("details.json", "[]", "list indices must be integers or slices, not str"),
        ("details.json", "{}", "'metrics'"),
        ("details.json", "null", "'NoneType' object is not subscriptable"),
        ("per_sample.json", "{}", "'psnr'"),
        ("blip.json", "{}", "'a'"),
    ],
)
def test_files_of_another_make_are_measured_again(
    run: Path, name: str, content: str, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    (run / "metric" / name).write_text(content)
    wanted = {name: measured.provenance for name, measured in ALL.items()}
    assert files.known(run, wanted, PAIRS) == {}
    assert caplog.messages == [
        f"{run / 'metric'}: earlier results are not readable ({told}); measuring again"
    ]
    if name == "details.json":
        assert files.stored_names(run) == set()
    (run / "metric/details.json").write_text("{")
    assert files.known(run, wanted, PAIRS) == {}
    assert files.stored_names(run) == set()


def test_nothing_of_an_earlier_evaluation_stays(run: Path) -> None:
    files.write(run, ABOUT, {"psnr": PSNR}, PAIRS, 0)
    assert not (run / "metric/blip.json").exists()
    for name in ("metric.json", "per_sample.json"):
        assert [*read(run / "metric" / name)] == ["psnr"]
    assert [*read(run / "metric/details.json")["metrics"]] == ["psnr"]
    # Captions without details are those of the published code.
    (run / "metric/details.json").unlink()
    (run / "metric/blip-l.json").write_text("{}")
    files.write(run, ABOUT, {"psnr": PSNR}, PAIRS, 0)
    assert (run / "metric/blip-l.json").read_text() == "{}"


def test_the_file_that_vouches_for_the_others_goes_first_and_comes_last(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[tuple[str, bool]] = []
    monkeypatch.setattr(
        files, "write_json", lambda path, _: written.append((path.name, (run / files.DETAILS).exists()))
    )
    files.write(run, ABOUT, ALL, PAIRS, 0)
    assert (run / files.PER_SAMPLE).exists()  # a row at a time
    names = ["blip.json", "metric.json", "details.json"]
    assert written == [(name, False) for name in names]


def test_whether_results_can_be_written_leaves_nothing(tmp_path: Path) -> None:
    files.prepare(tmp_path)
    assert not list(tmp_path.iterdir())
    folder = tmp_path / "metric"
    folder.mkdir()
    files.prepare(tmp_path)
    assert list(tmp_path.rglob("*")) == [folder]
    folder.rmdir()
    for run, fault in ((tmp_path, "Not a directory"), (tmp_path / "none", "No such file or directory")):
        folder.touch()
        with pytest.raises(UserError) as told:
            files.prepare(run)
        assert str(told.value) == (
            f"{run / 'metric'}: results cannot be written there ({fault}); copy or link the images into a "
            "folder that can be written"
        )


def test_what_the_report_reads(run: Path) -> None:
    details = files.read_details(run)
    assert details == read(run / "metric/details.json")
    assert files.read_values(run) == {name: measured.result.values for name, measured in ALL.items()}

    def told() -> str:
        with pytest.raises(UserError) as error:
            files.read_details(run)
        return str(error.value)

    path = run / "metric/details.json"
    for content, expected in (
        ([], ": found list [], expected an object of an evaluation"),
        (ABOUT, ": the fields ['metrics'] are missing; measure again"),
        ({"metrics": {}}, ": the fields ['dataset', 'images', 'n', 'name', 'protocol'] are missing; "
         "measure again"),
        ({**ABOUT, "metrics": 1}, ", field 'metrics': found int 1, expected an object of metrics by name"),
        ({**ABOUT, "metrics": {"psnr": 1}},
         ": metric 'psnr': found int 1, expected an object of named fields"),
        ({**ABOUT, "metrics": {"psnr": {**details["metrics"]["psnr"]}, "fid": {
            name: value for name, value in details["metrics"]["fid"].items() if name != "n"
        }}}, ": metric 'fid': the fields ['n'] are missing; measure again"),
    ):  # fmt: skip
        path.write_text(json.dumps(content))
        assert told() == f"{path}{expected}"
    path.unlink()
    assert told() == f"{path}: no such file; measure this run first with python -m ldm.evaluate"
    path = run / "metric/per_sample.json"
    for content, expected in (
        ([], ": found list [], expected an object of metrics by name"),
        ({"psnr": []}, ": metric 'psnr': found list [], expected an object of values by frame"),
    ):
        path.write_text(json.dumps(content))
        with pytest.raises(UserError) as error:
            files.read_values(run)
        assert str(error.value) == f"{path}{expected}"


def test_a_table_has_a_row_for_each_frame_of_each_run(tmp_path: Path) -> None:
    """FID is of the whole set, so it has no column; what a run was not measured in is empty."""
    runs = {"lego": (PAIRS, ALL), "ip2p": (pairs_of("a/1/x.jpg"), {"psnr": PSNR})}
    columns = ["run", "clip_id", "action_id", "frame", "psnr", "blip_base", "blip_base_caption"]
    rows: list[list[object]] = [
        ["lego", "a", "1", "a/1/x.jpg", 10.0, 0.0, " a cup"],
        ["lego", "a", "2", "a/2/x.jpg", math.inf, 0.5, " é"],
        ["lego", "b", "1", "b/1/x.jpg", 20.0, 1.0, ""],
        ["ip2p", "a", "1", "a/1/x.jpg", 10.0, None, None],
    ]
    for name in ("x.parquet", "x.table"):
        samples.write(tmp_path / name, runs)
        found = parquet.read_table(tmp_path / name).to_pylist()
        assert [[*row] for row in found] == [columns] * 4
        assert [[*row.values()] for row in found] == rows
    for name in ("x.csv", "x.CSV"):
        samples.write(tmp_path / name, runs)
        with (tmp_path / name).open(newline="") as file:
            head, *lines = csv.reader(file)
        assert head == columns
        assert lines[1] == ["lego", "a", "2", "a/2/x.jpg", "inf", "0.5", " é"]
        assert lines[3] == ["ip2p", "a", "1", "a/1/x.jpg", "10", "", ""]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.CSV", "x.csv", "x.parquet", "x.table"]
