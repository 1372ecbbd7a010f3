"""What training and sampling say about bad input, wrong commands and full disks: a line each."""

from __future__ import annotations

import json
import logging
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from egogen.cli import run as run_command
from egogen.errors import UserError
from ldm.distill import main as distill
from ldm.sample import main as sample
from ldm.train import main as train
from tests.ldm.toy_run import TRAINING, Run, base, fit, make_run, training
from tests.second_process import second_process
from tests.small_disk import largest_file


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(autouse=True)
def run_root(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUN_ROOT", str(run.root / "runs"))


def broken(run: Run, tmp_path: Path) -> Run:
    shutil.copytree(run.root, tmp_path / "run", ignore=shutil.ignore_patterns("logs", "runs"))
    return Run(tmp_path / "run")


def first_frame(run: Run, split: str, key: str) -> Path:
    clips = json.loads(run.annotations(split).read_text())
    action = next(iter(next(iter(clips.values())).values()))
    return run.layout.frames("train" if split == "train" else "val") / action[key]


def first_feature(run: Run) -> Path:
    return next((run.features / "ego4d" / "train" / "llava_text").rglob("*.npy"))


def damage(run: Run, kind: str) -> tuple[list[str], str]:
    """Breaks one thing; returns settings and what the error must say."""
    if kind == "missing frame":
        first_frame(run, "train", "image_1").unlink()
        return [], "no such frame"
    if kind == "broken jpeg":
        path = first_frame(run, "val", "image_0")
        path.write_bytes(path.read_bytes()[:300])
        return [], "not a readable image"
    if kind == "missing feature":
        first_feature(run).unlink()
        return [], "no such feature file"
    if kind == "feature of another width":
        np.save(first_feature(run), np.zeros((5, 7), np.float16))
        return [], "text features are (5, 7), expected (tokens, 24)"
    if kind == "no description":
        shutil.copy(run.layout.annotations("train"), run.annotations("train"))
        return [], "has no text 'llava_forecast_finetune'"
    if kind == "wrong type":
        clips = json.loads(run.annotations("train").read_text())
        next(iter(next(iter(clips.values())).values()))["action"] = 3
        run.annotations("train").write_text(json.dumps(clips))
        return [], "field 'action': found 3"
    if kind == "another shape":
        return ["model.architecture.unet.channels=[64, 96]"], "do not belong together"
    if kind == "truncated checkpoint":
        run.start.write_bytes(run.start.read_bytes()[:5000])
        return [], "not a readable checkpoint"
    if kind == "code in checkpoint":
        torch.save({"state_dict": {}, "hook": shutil.rmtree}, run.start)
        return [], "refused, it holds more than tensors"
    assert kind == "no checkpoint"
    run.start.unlink()
    return [], "no such checkpoint file"


@pytest.mark.parametrize(
    "kind",
    [
        "missing frame", "broken jpeg", "missing feature", "feature of another width", "no description",
        "wrong type", "another shape", "truncated checkpoint", "code in checkpoint", "no checkpoint",
    ],
)  # fmt: skip
def test_bad_input_is_one_line_with_the_path(
    run: Run, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    victim = broken(run, tmp_path)
    words, message = damage(victim, kind)
    logging.disable(logging.INFO)
    try:
        with pytest.raises(SystemExit) as stopped:
            run_command(lambda: fit(victim, "bad", *words))
    finally:
        logging.disable(logging.NOTSET)
    assert stopped.value.code == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error
    assert str(tmp_path) in error


def test_wrong_commands(run: Run) -> None:
    with pytest.raises(UserError, match="--base: give at least one YAML"):
        train(["--train"])
    with pytest.raises(UserError, match="--name: got 'a/b', allowed: part of a folder's name"):
        train(["--base", str(base(run)), "--name", "a/b"])
    with pytest.raises(UserError, match=r"--project: got '\.\./x', allowed: a folder inside --logdir"):
        train(["--base", str(base(run)), "--project", "../x"])
    with pytest.raises(UserError, match="expected different numbers such as 0,1"):
        train(["--base", str(base(run)), "--gpus", "a"])
    with pytest.raises(UserError, match="neither a checkpoint nor a folder"):
        train(["--base", str(base(run)), "--resume", "nowhere", *run.words(), *TRAINING])
    absent = ["data.val_annotations=absent.json", "model.start=absent.ckpt"]
    with pytest.raises(UserError, match=r"absent\.json: no such file; training reads a train and"):
        train(["--base", str(base(run)), *run.words(), *TRAINING, *absent])
    with pytest.raises(UserError, match="needed for --method lego"):
        sample(["--config", str(base(run))])
    with pytest.raises(UserError, match="not used by --method copy"):
        sample(["--config", str(base(run)), "--method", "copy", "--ckpt", "x"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trainer.effective_batch=3"], r"trainer\.effective_batch: 3 is no multiple of"),
        (["trainer.nodes=4", "trainer.effective_batch=4"], r"data\.batch_size x devices = 8; use 8"),
        (["--gpus", ","], "expected different numbers such as 0,1"),
        (["--gpus", "0,0"], "expected different numbers such as 0,1"),
        (["--resume", "nowhere"], "neither a checkpoint nor a folder"),
        (["data.val_annotations=absent.json"], r"absent\.json: no such file; training reads a train and"),
        (["model.start=absent.ckpt"], r"absent\.ckpt: no such checkpoint file"),
    ],
)
def test_mistakes_are_told_before_torch_is_imported(
    run: Run, words: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ldm.training.run", "ldm.distilling.beginning"):
        monkeypatch.setitem(sys.modules, name, None)  # whoever imports it fails
    settings = [*run.words(), *TRAINING, "data.batch_size=2", "trainer.effective_batch=2"]
    with pytest.raises(UserError, match=message):
        train(["--base", str(base(run)), f"model.start={run.start}", *settings, *words])
    teacher = [] if "model.start" in words[0] else ["--teacher", str(run.start)]
    with pytest.raises(UserError, match=message):
        distill(["--base", "configs/distill_guidance_toy.yaml", *teacher, *settings, *words])


def test_a_run_without_an_end_is_refused_and_paths_may_be_words(run: Run) -> None:
    config = ["--base", str(base(run)), f"model.start={run.start}", "trainer.effective_batch=2"]
    with pytest.raises(UserError, match=r"trainer\.max_epochs: got -1, allowed: at least 1"):
        train([*config, *run.words(), "data.batch_size=2"])


def test_one_share_is_drawn_by_one_process_and_a_full_disk_is_one_line(run: Run, tmp_path: Path) -> None:
    config = run.root / "copy.yaml"
    config.write_text("sampling: {format: png}\n")
    words = ["--config", str(config), "--method", "copy", "--out", str(tmp_path / "out"), *run.words()]
    with second_process(tmp_path / "out", "shard_1_of_2") as first:
        with pytest.raises(UserError, match=rf"\(shard_1_of_2\) is under way in process {first.pid} "):
            sample([*words, "--shard", "1/2"])
        assert not (tmp_path / "out").exists()
        sample([*words, "--shard", "2/2"])
    with largest_file(2000), pytest.raises(UserError, match=r"\.png: not written .*File too large.* free"):
        sample([*words, "--shard", "1/2"])
    sample(words)
    assert len(list((tmp_path / "out").rglob("*.png"))) == 3
    assert {path.name for path in tmp_path.rglob(".*")} == {".shards"}


def test_two_actions_are_never_drawn_to_one_file(run: Run, tmp_path: Path) -> None:
    config, annotations = tmp_path / "copy.yaml", tmp_path / "val.json"
    config.write_text("sampling: {format: png}\n")
    clips = json.loads(run.annotations("val").read_text())
    clip, actions = next(iter(clips.items()))
    action, entry = next(iter(actions.items()))
    for image in (entry["image_1"], str(Path(entry["image_1"]).with_suffix(".jpeg"))):
        actions["twin"] = {**entry, "image_1": image}
        annotations.write_text(json.dumps(clips))
        words = [*run.words(), f"data.val_annotations={annotations}"]
        twins = (
            rf"the actions {clip}/{action} and {clip}/twin would be drawn to one file, .*\.png; each needs"
        )
        with pytest.raises(UserError, match=twins):
            sample(["--config", str(config), "--method", "copy", "--out", str(tmp_path / "out"), *words])
    assert not (tmp_path / "out").exists()
    words += ["sampling.format=jpg"]
    sample(["--config", str(config), "--method", "copy", "--out", str(tmp_path / "out"), *words])
    assert len(list((tmp_path / "out" / "images").rglob("*.*"))) == 4


def test_latents_on_a_full_disk_are_one_line_and_no_signal(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUN_ROOT", str(tmp_path))
    words = training(run, "full", "data.cache_latents=true", logs=tmp_path)
    line = r"cache/ego4d_.*: not written .*File too large.* free"
    with largest_file(4000), pytest.raises(UserError, match=line):
        train(words)
