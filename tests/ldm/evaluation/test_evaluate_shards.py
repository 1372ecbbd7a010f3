"""`ldm.evaluate --shard`: parts measured apart and joined give what one process gives."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from egogen.shard_claims import FOLDER
from ldm import evaluate
from ldm.metrics import evaluation
from tests.ldm.evaluation.recorded_run import flags

METRICS = ("--metrics", "psnr,clip", "--batch-size", "3")
ROUNDING = 1e-6  # of single precision, where other frames share a batch


def published(folder: Path) -> dict[str, float]:
    """The published names and values."""
    return dict(json.loads((folder / "metric" / "metric.json").read_text()))


@pytest.fixture(scope="module")
def whole(recorded: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The results of one process, with the room that rounding needs."""
    root = tmp_path_factory.mktemp("whole")
    shutil.copytree(recorded / "gen" / "ego4d" / "images", root / "lego" / "images")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RUN_ROOT", f"{root}")
        evaluate.main(flags(recorded, root / "lego", "ego4d", weights, *METRICS))
    return pytest.approx(published(root / "lego"), rel=ROUNDING)


def test_shards_by_number_then_joined(
    recorded: Path, run_folder: Path, weights: Path, whole: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = flags(recorded, run_folder, "ego4d", weights, *METRICS)
    for shard in ("2/3", "1/3", "3/3"):
        evaluate.main([*words, "--shard", shard])
        assert not (run_folder / "metric" / "metric.json").exists()
    seen: list[int] = []
    opened = evaluation.Memory.recall

    def recall(memory: Any, store: Any, keys: Any, compute: Any) -> Any:
        def counted(chosen: list[int]) -> Any:
            seen.extend(chosen)
            return compute(chosen)

        return opened(memory, store, keys, counted)

    monkeypatch.setattr(evaluation.Memory, "recall", recall)
    evaluate.main(words)
    assert published(run_folder) == whole
    assert not seen  # nothing is measured twice
    assert not (run_folder / "metric" / "shards").exists()


def test_shards_that_are_claimed(
    recorded: Path,
    run_folder: Path,
    weights: Path,
    whole: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = flags(recorded, run_folder, "ego4d", weights, *METRICS, "--shard", "auto/4")
    capsys.readouterr()
    evaluate.main(words)
    assert published(run_folder) == whole
    table = capsys.readouterr().out
    assert "PSNR" in table
    assert len(list((run_folder / "metric" / FOLDER).glob("*_of_4.done"))) == 4
    evaluate.main(words)  # everything is known: nothing is shared out anew
    assert capsys.readouterr().out == table


def test_processes_of_a_launcher_share_the_work(
    recorded: Path, run_folder: Path, weights: Path, whole: Any,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Of three, here one after the other, the first to come does all and the one of rank 0 joins."""
    words = flags(recorded, run_folder, "ego4d", weights, *METRICS)
    capsys.readouterr()
    monkeypatch.setenv("WORLD_SIZE", "3")
    for rank in ("2", "1", "0"):
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("LOCAL_RANK", rank)
        evaluate.main(words)
        assert (run_folder / "metric" / "metric.json").exists() == (rank == "0")
        assert bool(capsys.readouterr().out) == (rank == "0")
    assert published(run_folder) == whole


def test_a_shard_that_is_missing_is_measured_by_who_joins(
    recorded: Path, run_folder: Path, weights: Path, whole: Any
) -> None:
    words = flags(recorded, run_folder, "ego4d", weights, *METRICS)
    evaluate.main([*words, "--shard", "1/2"])
    (run_folder / "metric" / "shards" / "2_of_2.sqlite").write_bytes(b"no database")
    evaluate.main(words)
    assert published(run_folder) == whole
