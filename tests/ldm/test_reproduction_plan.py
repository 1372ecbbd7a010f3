"""The plan of a reproduction: commands, needs, wrong words. Witnesses: catalogue, paper's tables, sums."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from egogen.cli import options as options_of
from egogen.download.catalogue import CATALOGUE
from egogen.download.wanted import DownloadOptions, choose
from egogen.errors import UserError
from egogen.features.byte_sizes import sizes
from egogen.features.feature_options import FeatureShape
from ldm.metrics.results.published_results import read_published
from ldm.reproduce import main
from ldm.reproduction import needs, reproduce_options
from ldm.reproduction.computing import Computing
from ldm.reproduction.fetching import downloads
from ldm.reproduction.needs import Need, by_disk
from ldm.reproduction.released import METRIC_WEIGHTS, PAPER, RELEASED
from ldm.reproduction.reproduce_options import ReproduceOptions, visible_gpus
from ldm.reproduction.room import check_room
from ldm.reproduction.step import Step
from tests.workbench import ROOT, Workbench

WAYS = ("checkpoints", "features", "frames")


def asked(taken: str = "checkpoints", dataset: str = "ego4d", **more: object) -> ReproduceOptions:
    return ReproduceOptions(dataset=dataset, taken=taken, **{"gpus": 1, **more})


def steps(made: ReproduceOptions, pairs: int | None = None) -> list[Step]:
    count = made.released.val if pairs is None else pairs
    return [*downloads(made), *Computing(made, count).steps()]


def typed(made: ReproduceOptions, pairs: int | None = None) -> str:
    return "\n".join(step.typed() for step in steps(made, pairs))


@pytest.fixture(autouse=True)
def roots(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("DATA_ROOT", "RUN_ROOT", "WEIGHTS_ROOT"):
        monkeypatch.setenv(name, str(tmp_path / name))


def test_what_is_released_is_what_the_paper_measured() -> None:
    assert {name: each.val for name, each in RELEASED.items()} == read_published().items
    systems = read_published().main["ego4d"]
    assert set(PAPER) == {name for table in systems.values() for name in table["LEGO"]}
    for each in RELEASED.values():
        assert CATALOGUE["weights"].sources[each.weights].folder == each.folder
        for kind in ("generate", "train"):
            assert (ROOT / f"configs/{kind}_{each.config}.yaml").is_file()
    assert set(METRIC_WEIGHTS) <= set(reproduce_options.METRICS)
    assert set(METRIC_WEIGHTS.values()) == CATALOGUE["metrics"].sources.keys()


@pytest.mark.parametrize("taken", WAYS)
@pytest.mark.parametrize("dataset", RELEASED)
def test_every_download_is_in_the_catalogue(taken: str, dataset: str) -> None:
    fetched = [*downloads(asked(taken, dataset))]
    for step in fetched:
        assert (ROOT / step.words[1]).is_file()
        wanted = options_of(DownloadOptions, step.words[2:], "download.sh", None)
        assert choose(wanted)
    assert len({step.name for step in fetched}) == len(fetched)


@pytest.mark.parametrize(
    ("taken", "names"),
    [
        ("checkpoints", ["describe-val", "draw", "measure", "report"]),
        ("features", ["draw", "measure", "report"]),
        (
            "frames",
            ["finetune", "describe-train", "describe-val", "train", "draw", "measure", "report"],
        ),
    ],
)
def test_the_steps_of_each_way(taken: str, names: list[str]) -> None:
    made = asked(taken, gpus=8)
    assert [step.name for step in Computing(made, 9931).steps()] == names
    text = typed(made)
    assert "--nproc_per_node 8 -m ldm.sample" in text
    assert ("data.features=" in text) == (taken == "features")
    assert ("--gpus 0,1,2,3,4,5,6,7," in text) == (taken == "frames")
    assert ("--vision-tower" in text) == (taken == "checkpoints")
    for step in steps(made):
        words = shlex.split(step.in_shell())
        assert words[:3] == ["step", step.name, step.why]
        assert words[-len(step.words) :] == step.words


def test_slurm_takes_the_work() -> None:
    text = typed(asked(slurm=8, sbatch="--gres=gpu:1 --time=1:00:00"))
    array = "scripts/slurm_array.sh --wait --gres=gpu:1 --time=1:00:00 8 bash scripts/"
    assert f"{array}describe.sh ego4d val" in text
    assert "-m llava.merge --save-path" in text
    assert f"{array}run.sh ldm python -m ldm.sample" in text
    assert (
        "srun --quit-on-interrupt --gres=gpu:1 --time=1:00:00 bash scripts/run.sh ldm python -m ldm.evaluate"
        in text
    )


def test_other_checkpoints_are_not_fetched(tmp_path: Path) -> None:
    (tmp_path / "vllm").mkdir()
    (tmp_path / "own.ckpt").touch()
    made = asked(vllm=tmp_path / "vllm", ckpt=tmp_path / "own.ckpt")
    assert [step.name for step in downloads(made)] == ["download-dataset", "download-weights"]
    assert f"--ckpt {tmp_path / 'own.ckpt'}" in typed(made)
    assert f"MODEL={tmp_path / 'vllm'}" in typed(made)
    assert "vllm" in made.settings
    assert "own.ckpt" in made.settings


def test_the_released_file_is_found_by_its_end(tmp_path: Path) -> None:
    folder = tmp_path / "WEIGHTS_ROOT/LEGO-EpicKitchens"
    folder.mkdir(parents=True)
    (folder / "epic_diffusion_with_vllm_feature.ckpt").touch()
    assert asked(dataset="epickitchen").diffusion() == folder / "epic_diffusion_with_vllm_feature.ckpt"
    (folder / "old_diffusion_with_vllm_feature.ckpt").touch()
    with pytest.raises(UserError, match="one of them was expected; choose by --ckpt"):
        asked(dataset="epickitchen").diffusion()


def test_other_pairs_than_the_paper_s_are_a_rehearsal() -> None:
    paper, other = Computing(asked(), 9931), Computing(asked(), 3)
    assert (paper.row, other.row) == ("LEGO, reproduced", "REHEARSAL of 3 pairs")
    assert paper.title == "LEGO on ego4d, from the published checkpoints"
    assert other.title == "Rehearsal, no result: 3 pairs in place of the 9,931 of ego4d's test set"


def test_title_and_row_name_own_models(tmp_path: Path) -> None:
    vllm, ckpt = tmp_path / "tuned", tmp_path / "own.ckpt"
    vllm.mkdir()
    ckpt.touch()
    both, names = {"vllm": vllm, "ckpt": ckpt}, "own vllm tuned and own ckpt own.ckpt"
    for made, row, title in (
        (asked(**both), f"LEGO by {names}", f"by {names}"),
        (asked(vllm=vllm), "LEGO by own vllm tuned", "from the published ckpt and own vllm tuned"),
        (asked(ckpt=ckpt), "LEGO by own ckpt own.ckpt", "from the published vllm and own ckpt own.ckpt"),
        (
            asked("features", ckpt=ckpt),
            "LEGO by own ckpt own.ckpt",
            "from the published features and own ckpt own.ckpt",
        ),
    ):
        paper = Computing(made, 9931)
        assert (paper.row, paper.title) == (row, f"LEGO on ego4d, {title}")
        assert f"'{row}'" in paper.measure().typed()
    other = Computing(asked(**both), 3)
    assert other.row == f"REHEARSAL of 3 pairs by {names}"
    assert other.title.endswith(f"of ego4d's test set, by {names}")


def test_without_gpus_the_steps_are_kept_on_the_cpu() -> None:
    """Asked for by --gpus 0 alone: Slurm's tasks have their own, and what is found is left to the steps."""
    for more, told in (({"gpus": 0}, True), ({"gpus": 1}, False), ({"gpus": 0, "slurm": 2}, False)):
        made = {step.name: step.words for step in Computing(asked(**more), 9931).steps()}
        for name in ("describe-val", "draw", "measure"):
            assert ("--device cpu" in " ".join(made[name])) is told


def test_needs_are_sums_of_known_sizes() -> None:
    published = sizes(9931, 9931, FeatureShape())["npy"]  # headers apart
    describe = next(step for step in steps(asked()) if step.name == "describe-val")
    assert describe.need.disk == pytest.approx(sum(published), rel=1e-3)
    assert needs.WEIGHTS_13B == 2 * (13_021_112_320 + 303_179_776)
    fetched = {step.name: step.need.disk for step in downloads(asked())}
    whole = CATALOGUE["weights"].sources["lego-ego4d"].size
    taken = (
        fetched["download-stage-1"] + 2 * fetched["download-stage-2"]
    )  # the jointly trained one is as large
    assert taken == pytest.approx(whole, rel=0.01)
    assert needs.DRAW.hours(3600, 2) == (0.25, 4.2)


def test_disks_are_told_apart(tmp_path: Path) -> None:
    here, there = [Need(tmp_path / "a", 3), Need(tmp_path / "b/c", 4)], [Need(Path("/proc"), 5)]
    assert by_disk([*here, *there]) == {tmp_path / "a": here, Path("/proc"): there}


def test_a_small_disk_is_told_the_steps_that_write_there(tmp_path: Path) -> None:
    """Nothing is ever free on /proc."""
    needs = {"fetch": Need(tmp_path, 3), "draw": Need(Path("/proc"), 5), "look": Need(Path("/proc"), 0)}
    with pytest.raises(
        UserError, match=r"^/proc: what is left for it \(draw\) needs 5 B and 67\.1 MB to spare, .* 0 B free"
    ):
        check_room([Step(name, "", [], need) for name, need in needs.items()])


def test_a_dry_run_needs_nothing_and_writes_nothing(tmp_path: Path) -> None:
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "RUN_ROOT": str(tmp_path / "RUN_ROOT")}
    ran = subprocess.run(
        [sys.executable, "-S", "-B", "-m", "ldm.reproduce", "ego4d", "--dry-run", "--gpus", "0"],
        cwd=tmp_path, env=environment, text=True, capture_output=True, check=True,
    )  # fmt: skip
    commands = [line for line in ran.stdout.splitlines() if "bash scripts/" in line]
    assert len(commands) == 9
    assert commands[0] == "bash scripts/download.sh dataset"
    assert "no GPU here: by the released LLaVA describing would take about" in ran.stderr
    assert len(ran.stderr.splitlines()) == 1
    assert not [*tmp_path.iterdir()]
    (tmp_path / "bare").mkdir()
    bench = Workbench(tmp_path / "bare", "")  # no Python at all
    assert "no Python here" in bench.run("reproduce.sh", "ego4d", "--dry-run", code=2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["video"], "data set 'video': allowed are ego4d, epickitchen"),
        (["ego4d", "--from", "scratch"], "--from: got 'scratch', allowed: checkpoints, features, frames"),
        (["ego4d", "--metrics", "psnr,beauty"], "metric 'beauty': allowed are egovlp, "),
        (["ego4d", "--metrics", "toy_success"], "metric 'toy_success': allowed are egovlp, "),
        (["ego4d", "--gpus", "-1"], "--gpus: got -1, allowed: 0 or more"),
        (["ego4d", "--slurm", "0"], "--slurm: got 0, allowed: 1 or more"),
        (["ego4d", "--ckpt", "x"], "--ckpt: got 'x', allowed: a checkpoint that is there"),
        (["ego4d", "--vllm", "pyproject.toml"], "allowed: the folder of a tuned LLaVA that is there"),
        (["ego4d", "--from", "features", "--vllm", "tests"], "nothing is described by it"),
        (["ego4d", "--from", "frames", "--ckpt", "tests"], "the model is trained here"),
    ],
)
def test_wrong_words_are_named(words: list[str], message: str) -> None:
    with pytest.raises(UserError) as told:
        main([*words, "--dry-run"])
    assert message in f"{told.value}"
    assert "\n" not in f"{told.value}"


def test_gpus_are_counted_without_a_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lister = tmp_path / "nvidia-smi"
    lister.write_text("#!/bin/sh\necho 'GPU 0: H200'\necho 'GPU 1: H200'\necho '  MIG 1g'\n")
    lister.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible_gpus() == 2
    for chosen, count in (("", 0), ("-1", 0), ("3", 1), ("0,2", 2)):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
        assert visible_gpus() == count
    lister.unlink()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert visible_gpus() == 0
