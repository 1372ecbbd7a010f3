"""Every shell script with stand-ins for its programs: what it and its YAMLs read, something wrote.

The witnesses are the words that the stand-ins were called with, and the configs as stage 2 loads them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, get_args

import pytest

from egogen.download.catalogue import CATALOGUE
from egogen.layout import FeatureKind, Split, merged_annotations, weights_root
from ldm.config.distillation import DistillConfig
from ldm.config.merge import load_config
from ldm.config.sections import GenerateConfig, TrainConfig
from tests.workbench import ROOT, Call, Workbench

WRITES = {
    "--out", "--output_dir", "--logdir",
    "--save-path", "--save-image-feature-path", "--save-text-feature-path",
}  # fmt: skip
READS = {
    "--data-root", "--image-dir", "--action-label", "--model-path", "--edits", "--data_path", "--ckpt",
    "--image_folder", "--model_name_or_path", "--start", "--gt_path", "--edit_file", "--metadata",
    "--gen_path", "--annotations", "--frames", "--logs",
}  # fmt: skip
CONFIGS = {"--base": TrainConfig, "--config": GenerateConfig}
SPLITS, KINDS = get_args(Split), get_args(FeatureKind)
FLOWS = {
    "demo.sh": (), "toy_benchmark.sh": (), "make_toy_assets.sh": ("--out", "runs/toy_assets/assets"),
    "toy_fast.sh": ("--teacher", "runs/lego.ckpt", "--vllm", "runs/vllm"),
}  # fmt: skip
# All others that are not sourced, with the words that make each do its work.
EVERY = {
    "finetune_toy.sh": (),
    "describe.sh": ("ego4d",), "describe_ego4d.sh": (), "describe_epickitchen.sh": (),
    "finetune.sh": ("ego4d",), "finetune_ego4d.sh": (), "finetune_epickitchen.sh": (),
    "download.sh": ("dataset",), "download_dataset.sh": (), "download_features.sh": (),
    "download_metric_weights.sh": (), "download_weights.sh": (),
    "slurm_array.sh": ("2", "python", "-m", "ldm.sample"), "setup.sh": ("all",), "lock.sh": (),
    "reproduce.sh": ("ego4d", "--ckpt", f"{ROOT / 'assets/toy/lego-4.safetensors'}"), "audit.sh": (),
    "test.sh": ("--long",), "run.sh": ("ldm", "python", "-m", "ldm.sample"),
}  # fmt: skip


class Moved(NamedTuple):
    """A path that a call writes or reads."""

    flag: str
    path: Path


def moved(call: Call, flags: set[str]) -> Iterator[Moved]:
    """The paths after some flags of a call; of `name=path`, the path."""
    flag = ""
    for word in call.words:
        if word.startswith("--"):
            flag = word
        elif flag in flags and not re.match(r"[a-z_]+\.[a-z_.]+=", word):  # of a config
            yield Moved(flag, Path(word.rpartition("=")[2] if flag == "--logs" else word))


def read_by_yaml(call: Call, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """What the YAML files of a call name, by the roots that it was called with."""
    for flag, usual in CONFIGS.items():
        kind = DistillConfig if "ldm.distill" in call.words else usual
        files = [ROOT / path for _, path in moved(call, {flag}) if path.suffix == ".yaml"]
        if not files:
            continue
        for name, root in call.roots.items():
            monkeypatch.setenv(name, root)
        config = load_config(kind, files)
        yield config.data.layout().egogen
        if kind is TrainConfig:
            yield Path(config.model.start)
        for split in SPLITS if isinstance(config, TrainConfig) else ("val",):
            yield config.data.annotations(split)
            yield from feature_folders(config, split)


def feature_folders(config: TrainConfig | GenerateConfig, split: str) -> list[Path]:
    """The folders of features that a config reads."""
    streams = config.model.streams
    wanted = dict(zip(KINDS, (streams.image, streams.text), strict=True))
    return [
        config.data.feature_folder(split, kind)
        for kind in KINDS
        if config.model.vllm_features and wanted[kind]
    ]


def ready(folder: Path) -> Workbench:
    """Both environments are there already."""
    bench = Workbench(folder, "uv python3.11 sbatch")
    bench.run("setup.sh", "all")
    bench.full_calls()
    return bench


def pretend_distillations(bench: Workbench) -> None:
    """What the distillations leave."""
    runs = bench.root / "runs/toy_fast/small/runs"
    students = ("phases8", "phases4", "phases2", "phases1", "direct4")
    for name in ["distill_guidance_toy_guidance", *(f"distill_phases_toy_{each}" for each in students)]:
        (runs / name / "checkpoints").mkdir(parents=True)
        (runs / name / "checkpoints/best.ckpt").touch()


def pretend_checkpoints(bench: Workbench) -> None:
    """What trained systems of the toy benchmark leave, and no stand-in makes."""
    work = bench.root / "runs/toy_benchmark/small"
    for system in ("lego", "joint", "image", "text", "description", "ip2p", "untuned"):
        (work / f"seed0/steps/{system}/80").mkdir(parents=True)
        (work / f"points/{system}/80").mkdir(parents=True)
        file = work / f"seed0/logs/train_toy_{system}/checkpoints/step=000000080.ckpt"
        file.parent.mkdir(parents=True)
        file.touch()


def test_every_script_is_run_here() -> None:
    scripts = {path.name for path in ROOT.glob("scripts/*.sh")}
    assert scripts == EVERY.keys() | {*FLOWS, "env.sh", "steps.sh"}


def check_roots(calls: list[Call]) -> set[Path]:
    """What the calls write, which lies below the roots that they were given."""
    for call in calls:
        roots = {Path(root) for root in call.roots.values()}
        assert [path for _, path in moved(call, WRITES) if not roots & {path, *path.parents}] == []
    return {path for call in calls for _, path in moved(call, WRITES)}


@pytest.mark.parametrize("script", EVERY)
def test_a_script_writes_below_its_roots(tmp_path: Path, script: str) -> None:
    bench = ready(tmp_path)
    bench.run(script, *EVERY[script])
    check_roots(bench.full_calls())


@pytest.mark.parametrize("script", FLOWS)
def test_what_a_flow_reads_was_written_by_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    bench = ready(tmp_path)
    if script == "toy_benchmark.sh":
        pretend_checkpoints(bench)
    if script == "toy_fast.sh":
        pretend_distillations(bench)
    bench.run(script, *FLOWS[script])
    calls = bench.full_calls()
    written = check_roots(calls)
    read = {path for call in calls for _, path in moved(call, READS)}
    for call in calls:
        read |= set(read_by_yaml(call, monkeypatch))
    assert len(read) > 15
    # What the script itself makes, such as links, exists; and what ships.
    given = {Path(word) for word in FLOWS[script]}
    nowhere = {path for path in read if not (written | given) & {path, *path.parents}}
    folders = {parent for path in written for parent in path.parents}
    places = (bench.root, ROOT)
    assert [path for path in nowhere - folders if not any((place / path).exists() for place in places)] == []
    features = {path for path in read if path.name in KINDS}
    assert features
    assert features <= written


@pytest.mark.parametrize(("dataset", "name"), [("ego4d", "ego4d"), ("epickitchen", "kitchen")])
def test_stage_2_finds_what_stage_1_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dataset: str, name: str
) -> None:
    for root in ("DATA_ROOT", "RUN_ROOT", "WEIGHTS_ROOT"):
        monkeypatch.delenv(root, raising=False)
    bench = ready(tmp_path)
    bench.run(f"finetune_{dataset}.sh")
    tuned = [path for call in bench.full_calls() for _, path in moved(call, {"--output_dir"})]
    config = load_config(TrainConfig, [ROOT / f"configs/train_{name}.yaml"])
    drawing = load_config(GenerateConfig, [ROOT / f"configs/generate_{name}.yaml"])
    for split in SPLITS:
        bench.run(f"describe_{dataset}.sh", split)
        calls = bench.full_calls()
        assert [path for call in calls for _, path in moved(call, {"--model-path"})] == tuned
        assert [path for call in calls for _, path in moved(call, {"--image-dir"})] == [
            config.data.layout().frames(split)
        ]
        written = {path for call in calls for _, path in moved(call, WRITES)}
        assert {merged_annotations(dataset, split), *feature_folders(config, split)} <= written
    assert set(feature_folders(drawing, "val")) <= written


def test_downloads_go_where_configs_look(monkeypatch: pytest.MonkeyPatch) -> None:
    for root in ("DATA_ROOT", "RUN_ROOT", "WEIGHTS_ROOT"):
        monkeypatch.delenv(root, raising=False)
    config = load_config(TrainConfig, [ROOT / "configs/train_ego4d.yaml"])
    assert CATALOGUE["dataset"].root() / "EgoGen" == config.data.layout().egogen
    assert CATALOGUE["features"].root() in config.data.feature_folder("val", "llava_image").parents
    folders = {weights_root() / source.folder for source in CATALOGUE["weights"].sources.values()}
    assert Path(config.model.start).parent in folders
    starts = re.search(r"LLAVA:-(\S+)}", (ROOT / "scripts/finetune.sh").read_text())
    assert starts
    assert Path(starts[1].replace("$WEIGHTS_ROOT", str(weights_root()))) in folders


def test_untuned_features_are_where_their_own_command_writes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = ROOT / "configs/ablation/untuned.yaml"
    command = re.search(r"^# RUN_ROOT=(\S+) MODEL=<.*> bash scripts/(\S+) train$", file.read_text(), re.M)
    assert command
    bench = ready(tmp_path)
    for split in SPLITS:
        bench.run(command[2], split, RUN_ROOT=str(bench.root / command[1]), MODEL="weights/llava")
    written = {path for call in bench.full_calls() for _, path in moved(call, WRITES)}
    monkeypatch.delenv("RUN_ROOT", raising=False)
    config = load_config(TrainConfig, [ROOT / "configs/train_ego4d.yaml", file])
    wanted = [path for split in SPLITS for path in feature_folders(config, split)]
    assert len(wanted) == 4
    assert set(wanted) <= written
