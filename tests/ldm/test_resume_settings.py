"""What a resumed run does with settings that have changed: used, said or refused, each by a decision."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from egogen.errors import UserError
from egogen.files import read_yaml
from ldm.checkpoints.safe_reading import SETTINGS, read
from ldm.config.distillation import DistillConfig
from ldm.config.merge import fields_of, load_config, section_of
from ldm.config.sections import OptimizerConfig, TrainConfig
from ldm.module import LatentDiffusion
from ldm.networks.architecture import build
from ldm.train import main as train
from ldm.training.adamw import make_optimizer, rate, renew
from ldm.training.resuming import REFUSED, SAID, USED, Begun, optimizer_settings, read_begun
from tests.ldm.toy_run import SHAPE, Run, make_run, training

DOCS = Path(__file__).parents[2] / "docs" / "stage2.md"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("run"))


def settings() -> Iterator[str]:
    """Every setting of a training run or a distillation; `joint` and the sizes of networks as one each."""
    for section, field in fields_of(DistillConfig).items():
        names = fields_of(section_of(field) or type(None))
        yield from [section] if section == "joint" else [f"{section}.{name}" for name in names]


def test_every_setting_has_one_decision_and_a_place_in_the_docs() -> None:
    assert sorted([*USED, *SAID, *REFUSED]) == sorted(settings())
    table = {
        cells[1].strip(): set(re.findall(r"`([a-z0-9_.*]+)`", cells[2]))
        for line in DOCS.read_text().splitlines()
        if len(cells := line.split("|")) == 4 and cells[1].strip() in ("used", "said", "refused")
    }
    for word, decided in (("used", USED), ("said", SAID), ("refused", REFUSED)):
        sections = {f"{key.partition('.')[0]}.*" for key in decided}
        whole = {name for name in table[word] if name in sections}
        named = {key for key in decided if f"{key.partition('.')[0]}.*" not in whole}
        assert table[word] - whole == named


def other(value: object) -> object:
    """Another value of the same kind."""
    return {"changed": value}


@pytest.mark.parametrize("key", [*SAID, *USED, *REFUSED])
def test_a_changed_setting_is_what_was_decided(key: str) -> None:
    config = load_config(DistillConfig if key.startswith("distill.") else TrainConfig, [], [])
    before = asdict(config)
    section, _, name = key.partition(".")
    if name:
        before[section][name] = other(before[section][name])
    else:
        before[section] = other(before[section])
    begun = Begun(Path("last.ckpt"), 3, before)
    if key in REFUSED:
        with pytest.raises(
            UserError, match=rf"^{key}: got .*, the run to resume has .*, which cannot change"
        ):
            begun.changes(config)
    else:
        assert len(begun.changes(config)) == (key in SAID)
        assert all(line.startswith(f"{key}: ") for line in begun.changes(config))
    assert Begun(Path("last.ckpt"), 3, asdict(config)).changes(config) == []


def test_of_a_file_without_settings_the_optimiser_tells_some() -> None:
    """Its rate is the one it began with, not that of its last step."""
    group = {"lr": 3e-5, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.1}
    told = {name: group[name] for name in ("betas", "eps", "weight_decay")}
    for more, rate_of in (({"initial_lr": 1e-4}, 1e-4), ({}, 3e-5)):
        content = {"optimizer_states": [{"param_groups": [{**group, **more}]}]}
        assert optimizer_settings(content) == {"optimizer": {"lr": rate_of, **told}}
    assert optimizer_settings({}) == {}


def test_a_run_goes_on_by_its_own_command() -> None:
    training, distillation = load_config(TrainConfig, [], []), load_config(DistillConfig, [], [])
    with pytest.raises(UserError, match=r"last.ckpt: is of a run of python -m ldm.distill, which alone"):
        Begun(Path("last.ckpt"), 3, asdict(distillation)).changes(training)
    with pytest.raises(UserError, match=r"last.ckpt: is of a run of main.py, which alone"):
        Begun(Path("last.ckpt"), 3, asdict(training)).changes(distillation)


def steps(settings: OptimizerConfig, saved: dict[str, Any] | None = None) -> dict[str, Any]:
    """What an optimiser and its schedule store after two steps, from what was stored."""
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = make_optimizer([weight], settings)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(settings, step, 10))
    if saved:
        renew(saved, settings, 10, on_gpu=False)
        optimizer.load_state_dict(saved["optimizer_states"][0])
        schedule.load_state_dict(saved["lr_schedulers"][0])
    for _ in range(2):
        weight.grad = torch.ones(3)
        optimizer.step()
        schedule.step()
    return {"optimizer_states": [optimizer.state_dict()], "lr_schedulers": [schedule.state_dict()]}


@pytest.mark.parametrize(
    "change",
    [
        {"lr": 3e-3}, {"betas": [0.5, 0.6]}, {"eps": 1e-3}, {"weight_decay": 0.3}, {"warmup_steps": 9},
        {"schedule": "cosine"}, {"lr": 1e-5, "schedule": "cosine", "warmup_steps": 3},
    ],
)  # fmt: skip
def test_the_optimiser_goes_on_with_the_new_settings(change: dict[str, Any]) -> None:
    new = replace(OptimizerConfig(), **change)
    found = steps(new, steps(OptimizerConfig()))
    group = found["optimizer_states"][0]["param_groups"][0]
    assert group["lr"] == new.lr * rate(new, 4, 10) == found["lr_schedulers"][0]["_last_lr"][0]
    assert (group["betas"], group["eps"], group["weight_decay"]) == (
        tuple(new.betas),
        new.eps,
        new.weight_decay,
    )
    assert found["optimizer_states"][0]["state"][0]["step"] == 4  # the moments are kept


def test_the_first_step_of_a_resumed_run_has_the_rate_of_its_place() -> None:
    """Half a cosine of ten steps at its third, warmed up by three sixths."""
    settings = OptimizerConfig(schedule="cosine", warmup_steps=6)
    saved = steps(settings)
    renew(saved, replace(settings, lr=2e-3), 10, on_gpu=False)
    expected = pytest.approx(2e-3 * 3 / 6 * 0.5 * (1 + math.cos(0.2 * math.pi)))
    (group,) = saved["optimizer_states"][0]["param_groups"]
    assert (group["lr"], group["initial_lr"]) == (expected, 2e-3)
    assert (saved["lr_schedulers"][0]["_last_lr"], saved["lr_schedulers"][0]["base_lrs"]) == (
        [expected],
        [2e-3],
    )


def test_moments_of_another_form_are_refused() -> None:
    saved = steps(OptimizerConfig())
    with pytest.raises(UserError, match="moments in 32 bits; set it to off"):
        renew(saved, OptimizerConfig(eight_bit="on"), 10, on_gpu=True)
    saved["optimizer_states"][0]["state"] = {0: {"state1": 0}}
    with pytest.raises(UserError, match="moments in 8 bits; set it to on"):
        renew(saved, OptimizerConfig(), 10, on_gpu=True)


def test_a_resumed_run_trains_by_its_new_settings(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    plain = ["trainer.images=0", "trainer.validate_every_epochs=100", "trainer.save_every_steps=1"]
    words = training(run, "lr", "model.gradient_checkpointing=false", *plain, logs=run.root)
    folder = run.root / "tiny_lr"
    train([*words, "trainer.max_steps=1"])
    changed = [
        "optimizer.lr=0.5",
        "optimizer.weight_decay=0.25",
        "trainer.max_steps=2",
        "trainer.log_every_steps=2",
    ]
    with caplog.at_level(logging.INFO):
        train([*words, *changed])
    assert (
        "in force from step 1 on: optimizer.lr: 0.0001 -> 0.5; optimizer.weight_decay: 0.01 -> 0.25; "
        in caplog.text
    )
    assert "log_every_steps" not in caplog.text
    content = read(folder / "checkpoints" / "last.ckpt")
    (group,) = content["optimizer_states"][0]["param_groups"]
    assert (group["lr"], group["initial_lr"], group["weight_decay"]) == (0.5, 0.5, 0.25)
    merged = read_yaml(folder / "configs" / "merged.yaml")
    assert merged["optimizer"]["lr"] == content[SETTINGS]["optimizer"]["lr"] == 0.5
    # What is refused, or has nothing to do, leaves the record of what was in force.
    for more in (["optimizer.lr=0.1"], ["model.train_conditioner=false", "optimizer.lr=0.1"]):
        refused = pytest.raises(UserError, match="train_conditioner: got False, the run to resume has True")
        with refused if len(more) > 1 else nullcontext():
            train(["--name", "lr", *words, "trainer.max_steps=2", *more])
        assert read_yaml(folder / "configs" / "merged.yaml")["optimizer"]["lr"] == 0.5
    # Files of older runs state no settings: those of the optimiser are told all the same.
    del content[SETTINGS]
    torch.save(content, run.root / "old.ckpt")
    config = load_config(TrainConfig, [], ["optimizer.lr=0.25"])
    assert read_begun(run.root / "old.ckpt").changes(config) == [
        "optimizer.lr: 0.5 -> 0.25",
        "optimizer.weight_decay: 0.25 -> 0.01",
    ]


def test_another_start_may_not_bring_another_vae() -> None:
    config = load_config(TrainConfig, [], ["model.gradient_checkpointing=false"])
    module = LatentDiffusion(build(SHAPE), replace(config, model=replace(config.model, architecture=SHAPE)))
    checkpoint: dict[str, Any] = {}
    module._trainer = SimpleNamespace(is_global_zero=True)  # type: ignore[assignment]
    module.on_save_checkpoint(checkpoint)
    saved = {name: value.clone() for name, value in checkpoint["state_dict"].items()}
    module.check_frozen(saved)
    with torch.no_grad():
        next(module.vae.parameters()).add_(1)
    with pytest.raises(UserError, match=r"model\.start: its vae is not that of the checkpoint to resume"):
        module.check_frozen(saved)
