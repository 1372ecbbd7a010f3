"""What a training module tells Lightning, and takes of it: curves, rates, its average, its checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel

from egogen.errors import UserError
from egogen.seeds import item_seed
from ldm.checkpoints.published_names import EMA_DECAY, EMA_UPDATES, ema_name
from ldm.checkpoints.safe_reading import ARCHITECTURE, RESOLUTION, SETTINGS
from ldm.guidance import Drop
from ldm.module import LatentDiffusion
from ldm.networks.distilled import DISTILLED, Distilled
from ldm.networks.scales import add_scale_layer, state_distilled
from ldm.training.adamw import rate
from ldm.training.ema import Ema
from tests.ldm.test_step import KEEP, make_batch, make_module

Told = list[tuple[str, float, dict[str, object]]]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    """What is logged from here on: name, value, how."""
    found: Told = []
    monkeypatch.setattr(
        LatentDiffusion, "log", lambda _, name, value, **how: found.append((name, float(value), how))
    )
    return found


def with_trainer(monkeypatch: pytest.MonkeyPatch, **facts: object) -> None:
    """Puts a trainer in place: the first step of a process that is alone, unless other facts are given."""
    alone = {"global_step": 0, "world_size": 1, "is_global_zero": True, "global_rank": 0}
    monkeypatch.setattr(LatentDiffusion, "trainer", SimpleNamespace(**{**alone, **facts}))
    monkeypatch.setattr(LatentDiffusion, "global_rank", property(lambda module: module.trainer.global_rank))


def test_networks_are_made_ready_as_the_settings_say(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[object] = []
    monkeypatch.setattr(UNet2DConditionModel, "compile", lambda unet: compiled.append(unet))
    plain = make_module()
    assert plain.conditioner is not None
    assert plain.unet.training
    assert plain.conditioner.training
    assert not plain.vae.training
    assert not plain.text_encoder.training
    assert all(value.requires_grad for value in plain.conditioner.parameters())
    assert not any(
        value.requires_grad for value in [*plain.vae.parameters(), *plain.text_encoder.parameters()]
    )
    assert not plain.unet.is_gradient_checkpointing
    assert not compiled
    words = [f"model.{name}=true" for name in ("gradient_checkpointing", "channels_last", "compile")]
    other = make_module(*words, "model.train_conditioner=false")
    assert other.conditioner is not None
    assert not any(value.requires_grad for value in other.conditioner.parameters())
    assert {name.partition(".")[0] for name in other.trained()} == {"unet"}
    assert other.unet.is_gradient_checkpointing
    assert compiled == [other.unet]
    for module, last in ((plain, False), (other, True)):
        weight = module.unet.conv_in.weight
        assert weight.is_contiguous(memory_format=torch.channels_last) == last
    # What follows from the settings is in no checkpoint.
    assert not {"sqrt_product", "sqrt_rest", "timestep_weight"} & plain.state_dict().keys()


def test_a_training_step_tells_its_mean_loss_and_notes_its_items(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_trainer(monkeypatch)
    module = make_module()
    losses, batch = torch.tensor([1.0, 2.0]), {"item": ["a", "b"]}
    monkeypatch.setattr(LatentDiffusion, "loss", lambda _, given: losses if given["item"] else None)
    assert module.training_step(batch, 0) == 1.5
    assert told == [("train/loss_simple", 1.5, {"prog_bar": True, "batch_size": 2})]
    # What the mixer drops follows from the run's seed and the batch's place: as in runs of before.
    assert torch.initial_seed() == item_seed(23, "dropout", "0", "0", "0")
    assert (module.recent, module.bad) == (["a", "b"], [])
    losses = torch.tensor([float("nan"), 2.0])
    module.training_step({"item": ["c", "d"]}, 1)
    losses = torch.tensor([1.0, float("inf")])
    module.training_step({"item": ["e", "f"]}, 2)
    assert (module.recent, module.bad) == (["a", "b", "c", "d", "e", "f"], ["c", "f"])


@torch.no_grad()
def test_validation_measures_the_weights_and_their_average(told: Told) -> None:
    """Nothing is dropped, whatever the batch says; processes share the value."""
    module = make_module("model.mixer_dropout=0")
    for value in module.trained().values():
        value += 0.01
    batch = {**make_batch(), "prompt": ["a", "b"], "t": torch.tensor([10, 900]), "drop": torch.zeros(2)}
    module.validation_step(batch, 0)
    last = module.loss(batch, drop=KEEP).mean()
    with module.ema.applied(module.trained()):
        average = module.loss(batch, drop=KEEP).mean()
    how = {"batch_size": 2, "sync_dist": True}
    assert told == [("val/loss_simple", last, how), ("val/loss_simple_ema", average, how)]
    assert last != average
    assert last != module.loss(batch).mean()


@torch.no_grad()
def test_what_is_dropped_follows_from_the_draws_and_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """With shares of 0.3, text and frame at 0.35, and nothing at 0.95."""
    module = make_module("model.mixer_dropout=0", "model.drop_each=0.3")
    batch, t, draws = make_batch(), torch.tensor([10, 900]), torch.tensor([0.35, 0.95])
    first = torch.tensor([True, False])
    wanted = module.loss(batch, t=t, drop=Drop(first, first))
    assert module.loss({**batch, "drop": draws}, t=t).equal(wanted)
    monkeypatch.setattr(torch, "rand", lambda count, **_: draws.expand(count))
    assert module.loss(batch, t=t).equal(wanted)
    assert not module.loss(batch, t=t, drop=KEEP).equal(wanted)


@torch.no_grad()
def test_latents_are_of_32_bits_whatever_training_computes_in() -> None:
    module, batch = make_module(), make_batch()
    frames = {"source": batch["source"], "target": batch["source"].flip(0), "posterior_noise": batch["noise"]}
    wanted = module.latents(frames)
    with torch.autocast("cpu", torch.bfloat16):
        for found, expected in zip(module.latents(frames), wanted, strict=True):
            assert found.equal(expected)


class Counted(torch.optim.SGD):
    """Notes the loss of each step, as Lightning does by the closure that it is handed."""

    def __init__(self, module: LatentDiffusion) -> None:
        super().__init__(module.trained().values(), lr=1.0)
        self.losses: list[float] = []

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.losses.append(closure())
        super().step()


def stepper(module: LatentDiffusion, gradient: float) -> Callable[[], Counted]:
    """Makes optimiser steps of one size, each with that gradient everywhere."""
    optimizer = Counted(module)

    def step() -> Counted:
        for value in module.trained().values():
            value.grad = torch.full_like(value, gradient)
        module.optimizer_step(0, 0, optimizer, lambda: 3.5)
        return optimizer

    return step


def test_the_norm_of_the_gradient_is_told(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    with_trainer(monkeypatch)
    module = make_module()
    assert stepper(module, 2.0)().losses == [3.5]
    count = sum(value.numel() for value in module.trained().values())
    ((name, norm, how),) = told
    assert (name, how) == ("train/gradient_norm", {})
    assert norm == pytest.approx(2 * count**0.5, rel=1e-4)


def test_too_many_steps_without_a_gradient_end_training_and_name_items(
    told: Told, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Ten at most. Weights and their average stay as they were; Lightning counts the steps."""
    with_trainer(monkeypatch)
    module = make_module("trainer.max_nonfinite=2")
    before = [value.detach().clone() for value in module.trained().values()]
    step = stepper(module, float("nan"))
    module.recent = ["a"]
    optimizer = step()
    assert all(value.grad is None for group in optimizer.param_groups for value in group["params"])
    module.recent = [f"{number}" for number in range(12)]
    with caplog.at_level(logging.WARNING), pytest.raises(UserError) as refused:
        step()
    assert str(refused.value) == (
        "training: 2 steps in a row had no finite gradient, the last with the items 0, 1, 2, 3, 4, 5, 6, 7, "
        "8, 9; the checkpoints before them are good. Lower optimizer.lr, set trainer.precision=32-true, or "
        "look at these items"
    )
    assert all(value.equal(old) for value, old in zip(module.trained().values(), before, strict=True))
    assert module.ema.updates == 0
    assert len(told) == 2
    assert optimizer.losses == [3.5, 3.5]


def test_processes_tell_of_bad_items_together(
    told: Told, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The first one speaks, for all."""

    def gather(parts: list[list[str]], items: list[str]) -> None:
        assert len(parts) == 2
        parts[:] = [items, [f"other {item}" for item in items]]

    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    module = make_module()
    for first, level in ((True, "WARNING"), (False, "DEBUG")):
        caplog.clear()
        with_trainer(monkeypatch, world_size=2, is_global_zero=first, global_step=7)
        module.recent, module.bad = ["a", "b"], ["b"]
        with caplog.at_level(logging.DEBUG, logger="ldm.module"):
            stepper(module, float("inf"))()
        (record,) = caplog.records
        assert record.levelname == level
        assert record.getMessage() == "step 7 is left out, its loss is not finite; items: b, other b"
    assert len(told) == 2


@pytest.mark.parametrize(("word", "place"), [("true", "cpu"), ("false", torch.device("cpu"))])
def test_the_average_lies_where_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, word: str, place: object
) -> None:
    asked: list[object] = []
    monkeypatch.setattr(Ema, "to", lambda _, device: asked.append(device))
    make_module(f"model.ema_on_cpu={word}").on_fit_start()
    assert [(type(each), each) for each in asked] == [(type(place), place)]


@pytest.mark.parametrize(("steps", "last"), [(10, 10), (1, 1), (-1, 1)])
def test_rates_go_by_optimiser_steps(steps: int, last: int) -> None:
    schedule = "cosine" if steps > 0 else "constant"
    module = make_module(
        "optimizer.lr=0.002", f"optimizer.schedule={schedule}", f"trainer.max_steps={steps}",
        "optimizer.warmup_steps=2",
    )  # fmt: skip
    made: Any = module.configure_optimizers()
    assert made["lr_scheduler"]["interval"] == "step"
    (factor,) = made["lr_scheduler"]["scheduler"].lr_lambdas
    assert [factor(step) for step in range(10)] == [
        rate(module.config.optimizer, step, last) for step in range(10)
    ]
    (group,) = made["optimizer"].param_groups
    assert group["initial_lr"] == 0.002
    assert len(group["params"]) == len(module.trained())


def test_a_parameter_that_learns_apart_has_a_rate_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "unet.conv_in.bias"
    monkeypatch.setattr(LatentDiffusion, "apart", lambda _: {name: 10.0})
    module = make_module("optimizer.lr=0.002")
    made: Any = module.configure_optimizers()
    rest, own = made["optimizer"].param_groups
    assert (rest["initial_lr"], own["initial_lr"]) == (0.002, 0.02)
    (value,) = own["params"]
    assert value is module.trained()[name]
    assert len(rest["params"]) == len(module.trained()) - 1
    assert not any(each is value for each in rest["params"])


def test_a_checkpoint_says_what_it_was_made_with(monkeypatch: pytest.MonkeyPatch) -> None:
    with_trainer(monkeypatch)
    module = make_module("data.resolution=48", "model.ema_decay=0.5")
    with torch.no_grad():
        for value in module.trained().values():
            value += 1
    module.ema.update(module.trained())
    content: dict[str, Any] = {}
    module.on_save_checkpoint(content)
    assert content[ARCHITECTURE] == asdict(module.shape)
    assert content[RESOLUTION] == 48
    assert content[SETTINGS] == asdict(module.config)
    assert DISTILLED not in content
    state = content["state_dict"]
    assert state[EMA_DECAY].item() == 0.5
    assert (state[EMA_UPDATES].item(), state[EMA_UPDATES].dtype) == (1, torch.int32)
    names = module.stored_names()
    for own, average in module.ema.values().items():
        assert state[ema_name(names[own])].equal(average)
    stated = Distilled([1, 5], [1, 2])
    add_scale_layer(module.unet)
    state_distilled(module.unet, stated)
    module.on_save_checkpoint(content)
    assert content[DISTILLED] == asdict(stated)
