"""`python -m ldm.evaluate` with all metrics of the table, on weight files at toy size."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pyarrow import parquet
from torch import Tensor

from egogen.errors import UserError
from egogen.layout import FOLDERS
from ldm import evaluate
from ldm.metrics import clip, evaluation, fid
from ldm.metrics.frames import contexts, protocol
from ldm.metrics.networks import metric_weights as files
from ldm.metrics.results import result_files as results
from tests.forked import Forked, command
from tests.ldm.evaluation.networks import ORACLE
from tests.ldm.evaluation.recorded_run import QUICK, Table, flags, fresh, read, values

TABLE = [
    "egovlp_image_sim", "egovlp_plus_image_sim", "clip_image_sim", "fid", "psnr", "lpips_squeeze",
    "lpips_vgg", "lpips_alex", "lpips_corrected", "blip_base_egovlp_sim", "blip_large_egovlp_sim", "ssim",
    "psnr_box", "ssim_box",
]  # fmt: skip
TOLERANCE = {"psnr": 1e-4, "fid": 3e-6, "lpips_squeeze": 1e-7, "lpips_vgg": 1e-7, "lpips_alex": 1e-7}


@pytest.mark.slow
@pytest.mark.parametrize("dataset", list(FOLDERS))
def test_the_whole_table(
    whole_table: Callable[[str], Table], recorded: Path, tmp_path: Path, weights: Path, dataset: str
) -> None:
    """All metrics by default; all but BLIP, whose words are made here, equal the recorded evaluation."""
    table = whole_table(dataset)
    folder = table.folder
    metric = read(folder / "metric" / "metric.json")
    assert sorted(metric) == sorted(TABLE)
    for key, value in read(ORACLE / "end_to_end.json")[dataset].items():
        if not key.startswith("blip"):
            assert metric[key] == pytest.approx(value, abs=TOLERANCE.get(key, 3e-6)), key
    details = read(folder / "metric" / "details.json")
    assert details["image_formats"] == ["PNG"]
    assert details["n"] == 6
    for name, entry in details["metrics"].items():
        assert entry["provenance"]["protocol"] == "published"
        if name == "fid":
            assert entry["interval_95"] is None
        else:
            low, high = entry["interval_95"]
            assert low <= entry["mean"] <= high
    hashes = details["metrics"]["clip"]["provenance"]
    assert len(hashes["ViT-L-14.pt"]) == 64
    captions = read(folder / "metric" / "blip.json")
    assert captions == read(folder / "metric" / "blip-l.json")
    assert {clip_id: list(actions) for clip_id, actions in captions.items()} == {
        clip_id: list(actions)
        for clip_id, actions in read(recorded / "EgoGen" / f"{dataset}_val.json").items()
    }
    rows = parquet.read_table(table.root / "samples.parquet").to_pylist()
    assert [row["run"] for row in rows] == ["lego"] * 6
    assert sum(row["egovlp"] for row in rows) / 6 == pytest.approx(metric["egovlp_image_sim"])
    assert rows[0]["blip_base_caption"] == captions[rows[0]["clip_id"]][rows[0]["action_id"]]
    assert "Published (" not in table.printed, "six pairs are not the paper's test set"
    assert not (folder / results.PROGRESS).exists()
    # The same again measures nothing and keeps every number and caption.
    folder = Path(shutil.copytree(folder, tmp_path / "lego"))
    evaluate.main(flags(recorded, folder, dataset, weights))
    assert read(folder / "metric" / "metric.json") == metric
    assert read(folder / "metric" / "blip.json") == captions


class Coarse(torch.nn.Module):
    """In place of Inception, whose 2,048 features of a frame take seconds: its colours, coarsely."""

    def forward(self, images: Tensor) -> list[Tensor]:
        return [torch.nn.functional.adaptive_avg_pool2d(images, 4)]


@pytest.fixture
def coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    """FID is measured on coarse colours."""
    monkeypatch.setattr(fid, "load", lambda *_: Coarse())


@pytest.mark.usefixtures("coarse")
def test_batches_and_order_change_nothing(
    recorded: Path, run_folder: Path, tmp_path: Path, weights: Path
) -> None:
    argv = flags(recorded, run_folder, "ego4d", weights, "--metrics", f"{QUICK},fid,blip_base")
    evaluate.main(argv)
    one, distance = values(run_folder), read(run_folder / "metric" / "metric.json")["fid"]
    assert distance > 1e-3
    shuffled = tmp_path / "shuffled.json"
    raw = read(recorded / "EgoGen" / "ego4d_val.json")
    shuffled.write_text(json.dumps({clip_id: raw[clip_id] for clip_id in reversed(raw)}))
    for more in (["--batch-size", "1"], ["--batch-size", "4", "--edit_file", str(shuffled)]):
        fresh(run_folder)
        evaluate.main([*argv, *more])
        for name, found in values(run_folder).items():
            assert found == pytest.approx(one[name], abs=1e-6), (more, name)
        assert read(run_folder / "metric" / "metric.json")["fid"] == pytest.approx(distance, abs=1e-6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_device_changes_nothing(recorded: Path, run_folder: Path, weights: Path) -> None:
    """In 32 bits: 2e-5 for cosines and LPIPS, 1e-4 for PSNR and FID."""
    argv = flags(recorded, run_folder, "ego4d", weights, "--metrics", f"{QUICK},fid,psnr")
    evaluate.main(argv)
    one, distance = values(run_folder), read(run_folder / "metric" / "metric.json")["fid"]
    fresh(run_folder)
    evaluate.main([*argv, "--device", "cuda"])
    for name, found in values(run_folder).items():
        assert found == pytest.approx(one[name], abs=1e-4 if name == "psnr" else 2e-5)
    assert read(run_folder / "metric" / "metric.json")["fid"] == pytest.approx(distance, abs=1e-4)


def test_bf16_is_near(recorded: Path, run_folder: Path, weights: Path) -> None:
    argv = flags(recorded, run_folder, "ego4d", weights, "--metrics", "clip,egovlp")
    evaluate.main(argv)
    exact = values(run_folder)
    evaluate.main([*argv, "--precision", "bf16"])
    near = values(run_folder)
    assert near != exact
    for name, found in near.items():
        assert found == pytest.approx(exact[name], abs=2e-2)
    assert read(run_folder / "metric" / "details.json")["precision"] == "bf16"


def test_auto_moves_no_similarity_by_a_thousandth(
    recorded: Path, run_folder: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On tiles where the CPU has them, and where it has none in 32 bits."""
    argv = flags(recorded, run_folder, "ego4d", weights, "--metrics", "clip,egovlp")
    evaluate.main(argv)
    exact = values(run_folder)
    evaluate.main([*argv, "--precision", "auto"])
    for name, found in values(run_folder).items():
        assert found == pytest.approx(exact[name], abs=1e-3)
    used = read(run_folder / "metric" / "details.json")["precision"]
    assert used == ("tiles" if protocol.has_tiles() else "32")
    monkeypatch.setattr(protocol, "has_tiles", lambda: False)
    evaluate.main([*argv, "--precision", "auto"])
    assert values(run_folder) == exact
    with pytest.raises(UserError, match="precision 'tiles': cpu has none; allowed here are 32"):
        evaluate.main([*argv, "--precision", "tiles"])


def test_protocols_are_never_mixed(recorded: Path, run_folder: Path, weights: Path) -> None:
    argv = flags(recorded, run_folder, "ego4d", weights)
    evaluate.main([*argv, "--metrics", "lpips_squeeze,lpips_corrected,clip"])
    published = values(run_folder)
    evaluate.main([*argv, "--metrics", "lpips_squeeze", "--protocol", "corrected"])
    corrected = values(run_folder)
    assert set(corrected) == {"lpips_squeeze"}  # nothing of the other protocol stays
    assert corrected["lpips_squeeze"] == pytest.approx(published["lpips_corrected"])
    assert read(run_folder / "metric" / "details.json")["protocol"] == "corrected"


def count_embeddings(monkeypatch: pytest.MonkeyPatch, limit: int = 10**6) -> list[int]:
    """How many images CLIP embeds at each call; Ctrl-C once there were more than a limit."""
    seen: list[int] = []
    embed = clip.embed

    def counted(network: Any, images: Any, protocol: Any) -> Any:
        if sum(seen) + len(images) > limit:
            raise KeyboardInterrupt
        seen.append(len(images))
        return embed(network, images, protocol)

    monkeypatch.setattr(clip, "embed", counted)
    return seen


def test_targets_are_embedded_once_for_all_runs(
    recorded: Path, run_folder: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = run_folder.with_name("other")
    shutil.copytree(run_folder, other)
    seen = count_embeddings(monkeypatch)
    argv = flags(recorded, run_folder, "ego4d", weights, "--metrics", "clip")
    argv.insert(argv.index(str(run_folder)) + 1, str(other))
    evaluate.main(argv)
    assert sum(seen) == 6 + 6 + 6  # both runs' frames, the targets once
    assert values(run_folder) == values(other)


def test_an_interruption_loses_nothing(
    recorded: Path, run_folder: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = ("--metrics", "clip,lpips_squeeze", "--batch-size", "1")
    argv = flags(recorded, run_folder, "ego4d", weights, *more)
    with monkeypatch.context() as patch:
        count_embeddings(patch, limit=5)
        with pytest.raises(KeyboardInterrupt):
            evaluate.main(argv)
    assert (run_folder / results.PROGRESS).exists()
    assert not (run_folder / results.PUBLISHED).exists()
    with monkeypatch.context() as patch:
        seen = count_embeddings(patch)
        evaluate.main([*argv, "--batch-size", "4"])
    assert sum(seen) == 12 - 5
    assert not (run_folder / results.PROGRESS).exists()
    metric, recorded_metric = read(run_folder / "metric" / "metric.json"), read(ORACLE / "end_to_end.json")
    assert sorted(metric) == ["clip_image_sim", "lpips_squeeze"]
    for key, value in metric.items():
        assert value == pytest.approx(recorded_metric["ego4d"][key], abs=3e-6), key


@pytest.mark.slow
def test_a_killed_process_goes_on(recorded: Path, run_folder: Path, weights: Path) -> None:
    argv = ["--batch-size", "1", "--metrics", "egovlp", *flags(recorded, run_folder, "ego4d", weights)]
    progress = run_folder / results.PROGRESS
    process = Forked(command, "ldm.evaluate", argv, log=run_folder / "first.log")
    deadline = time.monotonic() + 120
    while not progress.exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process = Forked(command, "ldm.evaluate", argv, log=run_folder / "second.log")
    assert process.wait() == 0
    assert "written" in process.printed
    assert set(read(run_folder / "metric" / "metric.json")) == {"egovlp_image_sim"}


def test_a_damaged_cache_is_left_alone(
    recorded: Path, run_folder: Path, weights: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = Path(os.environ["RUN_ROOT"]) / "cache" / "metrics.sqlite"
    cache.parent.mkdir(parents=True)
    cache.write_bytes(b"no database" * 1000)
    evaluate.main(flags(recorded, run_folder, "ego4d", weights, "--metrics", "clip"))
    assert f"{cache}: cannot keep vectors here" in caplog.text
    assert set(values(run_folder)) == {"clip"}
    assert cache.read_bytes() == b"no database" * 1000


def test_results_without_their_weights_stay(
    recorded: Path, run_folder: Path, weights: Path, tmp_path: Path
) -> None:
    """On a machine without the weights further metrics are added, and nothing is lost."""
    argv = flags(recorded, run_folder, "ego4d", weights, "--metrics", "clip,egovlp_plus,blip_base")
    evaluate.main(argv)
    before = read(run_folder / "metric" / "metric.json")
    captions = read(run_folder / "metric" / "blip.json")
    origins = provenances(run_folder)
    evaluate.main([*argv, "--metrics", "psnr", "--weights", str(tmp_path / "nowhere")])
    assert {each: provenances(run_folder)[each] for each in origins} == origins
    evaluate.main([*argv, "--metrics", "ssim"])  # the weights are here again
    after = read(run_folder / "metric" / "metric.json")
    assert {key: after[key] for key in before} == before
    assert set(after) == {*before, "psnr", "ssim"}
    assert read(run_folder / "metric" / "blip.json") == captions


def provenances(folder: Path) -> dict[str, Any]:
    entries = read(folder / results.DETAILS)["metrics"]
    return {name: entry["provenance"] for name, entry in entries.items()}


def test_what_is_not_asked_for_costs_nothing(
    recorded: Path, run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither weights nor frames before actions are read for metrics without a stored result."""
    monkeypatch.setattr(evaluation, "sha256", None)
    monkeypatch.setattr(contexts, "find_contexts", None)
    (tmp_path / files.CLIP.name).write_bytes(b"large")
    evaluate.main(flags(recorded, run_folder, "ego4d", tmp_path, "--metrics", "psnr"))
    assert set(read(run_folder / "metric" / "metric.json")) == {"psnr"}


def test_two_files_of_one_name_matter_to_those_who_read_them(
    recorded: Path, run_folder: Path, weights: Path, tmp_path: Path
) -> None:
    evaluate.main(flags(recorded, run_folder, "ego4d", weights, "--metrics", "blip_base"))
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / files.VOCABULARY.name).write_text(folder)
    argv = flags(recorded, run_folder, "ego4d", tmp_path)
    evaluate.main([*argv, "--metrics", "psnr"])
    assert set(read(run_folder / "metric" / "metric.json")) == {"psnr", "blip_base_egovlp_sim"}


def test_other_weights_measure_anew(recorded: Path, run_folder: Path, weights: Path, tmp_path: Path) -> None:
    argv = flags(recorded, run_folder, "ego4d", weights, "--metrics", "lpips_alex")
    evaluate.main(argv)
    before = read(run_folder / "metric" / "metric.json")
    name = files.LPIPS["alex"].name
    changed = torch.load(weights / name)
    changed["features.0.weight"] *= 1.5
    (tmp_path / "w").mkdir()
    torch.save(changed, tmp_path / "w" / name)
    evaluate.main([*argv, "--weights", str(tmp_path / "w")])
    assert read(run_folder / "metric" / "metric.json") != before
    # Another metric alone, beside weights that would give other numbers: the stale ones go.
    evaluate.main([*argv, "--metrics", "psnr"])
    assert set(read(run_folder / "metric" / "metric.json")) == {"psnr"}
