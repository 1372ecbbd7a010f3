"""`python -m ldm.evaluate`: files, resuming, and each fault as one line with exit code 2."""

from __future__ import annotations

import csv
import json
import math
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pyarrow import parquet

from egogen.errors import UserError
from egogen.toy.__main__ import main as make_toy
from ldm import evaluate
from ldm.metrics import evaluate as measured_by_call
from ldm.metrics import evaluation
from ldm.metrics.results import result_files as results
from ldm.metrics.results.published_results import published_results
from tests.ldm.evaluation.failing import fails
from tests.second_process import second_process
from tests.small_disk import largest_file


def read(path: Path) -> Any:
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("toy")
    make_toy(["--out", str(root), "--train", "1", "--val", "6", "--size", "64", "--seed", "3"])
    return root / "EgoGen"


def toy_flags(toy: Path, run_folder: Path) -> list[str]:
    return [
        *("--dataset", "epickitchen", "--gen_path", str(run_folder), "--device", "cpu"),
        *("--gt_path", str(toy / "epickitchen" / "val_gt_for_metric")),
        *("--edit_file", str(toy / "epickitchen_val.json"), "--metrics", "psnr,ssim"),
    ]


def generate(toy: Path, run_folder: Path, key: str) -> None:
    """Frames that are the true target (image_1) or the source (image_0), as they lie on disk."""
    for actions in read(toy / "epickitchen_val.json").values():
        for action in actions.values():
            path = run_folder / "images" / Path(*Path(action["image_1"]).parts[-3:])
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(toy / "epickitchen" / "val" / action[key], path)


def test_files_and_table(scene, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: ANN001
    evaluate.main(scene.flags("--name", "noise"))
    metric = read(scene.run / "metric" / "metric.json")
    details = read(scene.run / "metric" / "details.json")
    samples = read(scene.run / "metric" / "per_sample.json")
    assert set(metric) == set(details["metrics"]) == set(samples) == {"psnr", "ssim"}
    psnr = details["metrics"]["psnr"]
    assert metric["psnr"] == psnr["mean"] == pytest.approx(sum(samples["psnr"].values()) / 4)
    assert (psnr["n"], psnr["infinite"], psnr["better"]) == (4, 0, "higher")
    assert psnr["provenance"]["versions"]["torchmetrics"]
    assert (details["name"], details["protocol"], details["image_formats"]) == (
        "noise",
        "published",
        ["JPEG"],
    )
    shown = capsys.readouterr().out
    assert f"{metric['psnr']:.2f} ± {psnr['standard_error']:.2f}" in shown
    assert "Published" not in shown, "four pairs are not the paper's test set"
    evaluate.main(scene.flags("--name", "noise", "--published", "ego4d"))
    shown = capsys.readouterr().out
    assert "Published (ego4d, 9,931 items)" in shown
    assert "12.29" in shown


def test_a_table_of_frames_is_what_its_name_says(scene, tmp_path: Path) -> None:  # noqa: ANN001
    """Witness: Python's own reader of CSV against pyarrow's of Parquet."""
    tables = [tmp_path / "frames.csv", tmp_path / "frames.parquet"]
    for table in tables:
        evaluate.main(scene.flags("--name", 'a "noise", too', "--per-sample", str(table)))
    with tables[0].open(newline="") as file:
        rows = [*csv.DictReader(file)]
    assert [[f"{value}" for value in row.values()] for row in parquet.read_table(tables[1]).to_pylist()] == [
        [*row.values()] for row in rows
    ]
    assert [row["run"] for row in rows] == ['a "noise", too'] * 4
    with pytest.raises(UserError, match=r"x\.xlsx: expected a name that ends in \.parquet or \.csv"):
        evaluate.main(scene.flags("--per-sample", "x.xlsx"))


def test_a_folder_of_runs_names_them(tmp_path: Path) -> None:
    for scale in ("txt2_img1", "txt1.5_img1"):
        (tmp_path / scale / "images").mkdir(parents=True)
    with pytest.raises(UserError, match=r"holds 2 runs; name them: txt1\.5_img1, txt2_img1$"):
        evaluate.run_names([tmp_path], None)


def test_paths_may_be_texts(scene) -> None:  # noqa: ANN001
    places = (scene.run, scene.targets, scene.annotations)
    found = measured_by_call("ego4d", *map(str, places), metrics="psnr", weights=str(scene.root))
    assert found == measured_by_call("ego4d", *places, metrics=["psnr"])


def test_the_batch_size_changes_nothing(scene) -> None:  # noqa: ANN001
    both = []
    for size in ("1", "3"):
        shutil.rmtree(scene.run / "metric", ignore_errors=True)
        evaluate.main(scene.flags("--batch-size", size))
        both.append(read(scene.run / "metric" / "per_sample.json"))
    assert both[0]["psnr"] == pytest.approx(both[1]["psnr"], abs=1e-5)
    assert both[0]["ssim"] == pytest.approx(both[1]["ssim"], abs=1e-6)


def test_stale_keys_do_not_survive(scene) -> None:  # noqa: ANN001
    (scene.run / "metric").mkdir()
    (scene.run / "metric" / "metric.json").write_text('{"fid": 1.0, "psnr": 99}')
    evaluate.main(scene.flags("--metrics", "psnr"))
    assert set(read(scene.run / "metric" / "metric.json")) == {"psnr"}


def test_metrics_are_added_one_by_one(scene, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ANN001
    measured: list[list[str]] = []
    measure = evaluation.measure

    def record(pairs: Any, metrics: Any, *more: Any) -> Any:
        measured.append([metric.name for metric in metrics])
        return measure(pairs, metrics, *more)

    monkeypatch.setattr(evaluation, "measure", record)
    evaluate.main(scene.flags("--metrics", "psnr"))
    evaluate.main(scene.flags("--metrics", "ssim"))
    evaluate.main(scene.flags())
    assert measured == [["psnr"], ["ssim"]]
    assert set(read(scene.run / "metric" / "metric.json")) == {"psnr", "ssim"}


def test_new_images_are_measured_again(scene, noise) -> None:  # noqa: ANN001
    evaluate.main(scene.flags())
    before = read(scene.run / "metric" / "metric.json")
    noise(scene.generated(0), 77)
    evaluate.main(scene.flags("--metrics", "psnr"))
    after = read(scene.run / "metric" / "metric.json")
    assert set(after) == {"psnr"}
    assert after["psnr"] != before["psnr"]


def test_an_interrupted_bootstrap_loses_nothing(scene, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ANN001
    evaluate.main(scene.flags())
    before = read(scene.run / results.DETAILS)

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(results, "interval", interrupted)
    with pytest.raises(KeyboardInterrupt):
        evaluate.main(scene.flags("--bootstrap", "1000000"))
    assert read(scene.run / results.DETAILS) == before


def test_a_folder_that_cannot_be_written_is_told_first(
    scene, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]  # noqa: ANN001
) -> None:  # fmt: skip
    (scene.run / "metric").write_text("a file")
    monkeypatch.setattr(evaluation, "measure", None)  # nothing is measured
    assert "metric: results cannot be written there" in fails(evaluate.main, scene.flags(), capsys)


@pytest.mark.parametrize("content", ["{", "[]", '{"metrics": {"psnr": 1}}', '{"metrics": []}'])
def test_broken_earlier_results_are_replaced(scene, content: str) -> None:  # noqa: ANN001
    (scene.run / "metric").mkdir()
    (scene.run / results.DETAILS).write_text(content)
    (scene.run / results.PER_SAMPLE).write_text("{}")
    evaluate.main(scene.flags("--metrics", "psnr"))
    assert read(scene.run / results.DETAILS)["metrics"]["psnr"]["n"] == 4


def test_identical_pairs_are_counted(scene, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: ANN001
    shutil.copy(scene.targets / "clip1/act/000002.jpg", scene.generated(1))
    for _ in range(2):  # the second run reads what the first wrote
        evaluate.main(scene.flags())
        details = read(scene.run / "metric" / "details.json")["metrics"]["psnr"]
        assert (details["mean"], details["standard_error"], details["infinite"]) == (None, None, 1)
        assert read(scene.run / "metric" / "per_sample.json")["psnr"]["clip1/act/000002.jpg"] is None
        assert read(scene.run / "metric" / "metric.json")["psnr"] == math.inf
        shown = capsys.readouterr().out
        assert "1 of 4 frames equal their target: PSNR is infinite there" in shown
        assert f"without them the mean is {details['finite_mean']:.2f}" in shown


def test_several_runs_share_a_table(scene, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: ANN001
    other = scene.root / "other"
    shutil.copytree(scene.run, other)
    flags = scene.flags("--metrics", "psnr", "--name", "first", "second")
    flags.insert(flags.index(str(scene.run)) + 1, str(other))
    evaluate.main(flags)
    shown = capsys.readouterr().out
    assert "first" in shown
    assert "second" in shown
    assert read(other / "metric" / "details.json")["name"] == "second"


def test_toy_success_of_targets_and_sources(toy: Path, tmp_path: Path) -> None:
    metadata = ["--metadata", str(toy / "epickitchen_metadata.json")]
    rates, parts = {}, ("toy_hand", "toy_object", "toy_place")
    for key in ("image_0", "image_1"):
        generate(toy, tmp_path / key, key)
        asked = ",".join(("psnr", "ssim", "toy_success", *parts))
        evaluate.main([*toy_flags(toy, tmp_path / key), *metadata, "--metrics", asked])
        details = read(tmp_path / key / "metric" / "details.json")["metrics"]
        assert set(details) == {"psnr", "ssim", "toy_success", *parts}
        rates[key] = details["toy_success"]["mean"]
        # A frame shows the event if it shows every sign: no rate of one is below that of all.
        assert all(details[name]["mean"] >= rates[key] for name in parts)
        evaluate.main(toy_flags(toy, tmp_path / key))  # without the metadata, which loses nothing
        assert read(tmp_path / key / "metric" / "details.json")["metrics"] == details
    assert rates == {"image_0": 0.0, "image_1": 1.0}


def test_toy_success_alone_needs_metadata(toy: Path, tmp_path: Path) -> None:
    generate(toy, tmp_path, "image_1")
    evaluate.main(toy_flags(toy, tmp_path))
    with pytest.raises(ValueError, match="metric 'toy_success' needs --metadata FILE"):
        evaluate.main([*toy_flags(toy, tmp_path), "--metrics", "toy_success"])


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"clip0": {"height": 18, "width": 32}}, "clips without the field 'signs'"),
        ({"other": {"height": 18, "width": 32, "signs": []}}, "the metadata has no clip 'clip0'"),
    ],
)
def test_toy_success_needs_toy_facts(scene, metadata: Any, message: str) -> None:  # noqa: ANN001
    path = scene.root / "metadata.json"
    path.write_text(json.dumps(metadata))
    with pytest.raises(ValueError, match=message):
        evaluate.main(scene.flags("--metadata", str(path), "--metrics", "toy_success"))


def replaced(scene: Any, flag: str, value: str) -> list[str]:
    flags = scene.flags()
    flags[flags.index(flag) + 1] = value
    return flags


FAULTS = {
    "empty folder": (lambda s: (shutil.rmtree(s.run), s.run.mkdir()), "run: the folder is empty"),
    "no folder": (lambda s: shutil.rmtree(s.run), "run: no such run; draw it by python -m ldm.sample"),
    "missing frame": (lambda s: s.generated(2).unlink(), "1 missing (clip2/act/000002.jpg)"),
    "truncated": (
        lambda s: s.generated(1).write_bytes(s.generated(1).read_bytes()[:-200]),
        "not a whole image",
    ),
    "other size": (
        lambda s: Image.new("RGB", (40, 18)).save(s.generated()),
        "40x18 pixels, its target",
    ),
    "grey": (lambda s: Image.new("L", (32, 18)).save(s.generated(), format="PNG"), "a L image of PNG format"),
    "annotations": (lambda s: s.annotations.write_text("[]"), "found list [], expected an object"),
    "no annotations": (lambda s: s.annotations.unlink(), "val.json: no such file"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_one_line(scene, fault: str, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: ANN001
    break_it, message = FAULTS[fault]
    break_it(scene)
    assert message in fails(evaluate.main, scene.flags(), capsys)
    assert not (scene.run / "metric").exists()


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("--dataset", "kitchen", "data set 'kitchen': allowed are ego4d, epickitchen"),
        ("--device", "gpu", "device 'gpu': "),
        ("--device", "meta", "device 'meta': it computes nothing; allowed are auto, cpu"),
        ("--metrics", "psnr,fid2", "metric 'fid2': allowed are egovlp, egovlp_plus, clip, fid, psnr, "),
        ("--precision", "8", "precision '8': allowed are 32, tf32, tiles, bf16, auto"),
        ("--bootstrap", "-1", "--bootstrap -1: expected 0 to 1000000 resamples"),
        ("--bootstrap", f"1{'0' * 20}", "expected 0 to 1000000 resamples"),
        ("--protocol", "loose", "protocol 'loose': allowed are published, corrected"),
        ("--batch-size", "0", "batch size 0: expected at least 1"),
        ("--metadata", "nowhere.json", "nowhere.json: no such file"),
    ],
)
def test_wrong_choices(
    scene, flag: str, value: str, message: str, capsys: pytest.CaptureFixture[str]  # noqa: ANN001
) -> None:  # fmt: skip
    assert message in fails(evaluate.main, [*scene.flags(), flag, value], capsys)


def test_spaces_between_metrics_and_hidden_folders_count_for_nothing(scene) -> None:  # noqa: ANN001
    (scene.run / "images" / ".cache").mkdir()
    (scene.run / "images" / ".cache" / "thumbnail.jpg").write_bytes(b"")
    evaluate.main([*scene.flags()[:-1], "psnr, ssim"])
    assert set(results.read_details(scene.run)["metrics"]) == {"psnr", "ssim"}


def test_captions_of_the_published_code_stay(scene) -> None:  # noqa: ANN001
    path = scene.run / "metric" / "blip.json"
    path.parent.mkdir()
    path.write_text("{}")
    evaluate.main(scene.flags())
    assert path.read_text() == "{}"


def test_each_run_has_a_name(scene, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: ANN001
    assert "found 2 names for 1 runs" in fails(evaluate.main, scene.flags("--name", "a", "b"), capsys)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ("out/lego", "out/ip2p", "the results of both would be in"),  # image folders as published
        ("a/run", "b/run", "the name 'run' is that of two runs"),
    ],
)
def test_runs_are_told_apart(
    scene, first: str, second: str, message: str, capsys: pytest.CaptureFixture[str]  # noqa: ANN001
) -> None:  # fmt: skip
    for folder in (first, second):
        source = scene.run / "images" if folder.startswith("out") else scene.run
        shutil.copytree(source, scene.root / folder)
    argv = scene.flags("--metrics", "psnr")
    place = argv.index(str(scene.run))
    argv[place : place + 1] = [str(scene.root / first), str(scene.root / second)]
    assert message in fails(evaluate.main, argv, capsys)


def test_runs_that_are_not_there_yet_name_the_command_that_makes_them(
    scene, capsys: pytest.CaptureFixture[str]  # noqa: ANN001
) -> None:  # fmt: skip
    argv = scene.flags("--metrics", "psnr")
    place = argv.index(str(scene.run))
    argv[place : place + 1] = [str(scene.root / "one"), str(scene.root / "two")]
    told = fails(evaluate.main, argv, capsys)
    assert f"one: no such run; draw it by python -m ldm.sample --out {scene.root / 'one'}" in told


def test_as_a_shell_command(scene) -> None:  # noqa: ANN001
    argv = [sys.executable, "-m", "ldm.evaluate", *replaced(scene, "--dataset", "kitchen")]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "error: data set 'kitchen': allowed are ego4d, epickitchen\n"


def test_published_results_are_in_our_units() -> None:
    assert published_results("ego4d")["LEGO"]["lpips_squeeze"] == pytest.approx(0.3643)
    assert published_results("epickitchen")["IP2P"]["fid"] == 20.64
    with pytest.raises(ValueError, match="'toy': allowed are ego4d, epickitchen"):
        published_results("toy")


def test_one_run_by_two_evaluations_is_refused(scene, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: ANN001
    with second_process(scene.run / "metric") as first:
        told = fails(evaluate.main, scene.flags(), capsys)
        assert f"an evaluation is under way in process {first.pid} " in told
        assert not (scene.run / "metric").exists()
    evaluate.main(scene.flags())
    assert not list(scene.root.rglob("*.lock"))


def test_a_full_disk_is_one_line(scene, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: ANN001
    with largest_file(600):
        told = fails(evaluate.main, scene.flags(), capsys)
    assert "details.json: not written (File too large); it needs more than" in told
    evaluate.main(scene.flags())
