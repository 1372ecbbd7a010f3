"""One training step, part by part: draws, weights of timesteps, dropout, what is noted of bad items."""

from __future__ import annotations

import logging
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from ldm.config.merge import load_config
from ldm.config.sections import TrainConfig
from ldm.data.noise import draw
from ldm.diffusion.schedule import p2_weight, training_schedule
from ldm.guidance import Drop
from ldm.module import LatentDiffusion
from ldm.networks.architecture import build
from tests.ldm.toy_run import SHAPE, WIDTH

KEEP = Drop(torch.zeros(2, dtype=torch.bool), torch.zeros(2, dtype=torch.bool))


def make_module(*words: str) -> LatentDiffusion:
    torch.manual_seed(0)
    config = load_config(TrainConfig, [], ["model.gradient_checkpointing=false", *words])
    return LatentDiffusion(build(SHAPE), replace(config, model=replace(config.model, architecture=SHAPE)))


def make_batch() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    shape = {"source": (2, 3, 16, 16), "target_latent": (2, 4, 8, 8), "vllm_image": (2, 256, WIDTH)}
    shape |= {"vllm_text": (2, 77, WIDTH), "noise": (2, 4, 8, 8), "text": (2, 77, SHAPE.text.width)}
    return {name: torch.randn(size, generator=generator) for name, size in shape.items()}


@torch.no_grad()
def test_timesteps_weigh_as_the_settings_say() -> None:
    """Choi et al. 2022, equation 8; witness: the loss without weights."""
    t = torch.tensor([10, 900])
    plain, weighted = (
        make_module("model.mixer_dropout=0", *words).loss(make_batch(), t=t, drop=KEEP)
        for words in ([], ["optimizer.p2_gamma=0.7", "optimizer.p2_k=0.1"])
    )
    share = training_schedule()["alphas_cumprod"][t].double()
    snr = share / (1 - share)
    torch.testing.assert_close(weighted / plain, ((0.1 + snr) ** -0.7).float(), rtol=1e-4, atol=0)
    assert len(p2_weight(training_schedule(), 1.0, 1.0)) == 1000


@torch.no_grad()
def test_the_loss_draws_from_all_timesteps(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def randint(*ends: int, **_: object) -> torch.Tensor:
        asked.append(ends[:2])
        return torch.tensor([0, 999])

    monkeypatch.setattr(torch, "randint", randint)
    assert make_module().loss(make_batch(), drop=KEEP).shape == (2,)
    assert asked == [(0, 1000)]


@torch.no_grad()
def test_cached_latents_are_those_that_are_encoded() -> None:
    """Witness: the published scale of the target, none of the source."""
    module, batch = make_module(), make_batch()
    frames = {"source": batch["source"], "target": batch["source"].flip(0), "posterior_noise": batch["noise"]}
    mode, posterior = (module.vae.encode(frames[name]).latent_dist for name in ("source", "target"))
    cached = {
        "source_latent": mode.mean,
        "target_moments": torch.cat([posterior.mean, posterior.std], dim=1),
        "posterior_noise": batch["noise"],
    }
    target = 0.18215 * (posterior.mean + posterior.std * batch["noise"])
    for found in (module.latents(frames), module.latents(cached)):
        torch.testing.assert_close(found, (mode.mean, target))


def test_the_average_moves_towards_the_weights_of_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a first step of -1 it has gone nine elevenths of the way."""
    module = make_module()
    monkeypatch.setattr(LatentDiffusion, "log", lambda *_, **__: None)
    before = [value.detach().clone() for value in module.trained().values()]
    for value in module.trained().values():
        value.grad = torch.ones_like(value)
    module.optimizer_step(0, 0, torch.optim.SGD(module.trained().values(), lr=1.0), lambda: 0.0)
    for old, average in zip(before, module.ema.values().values(), strict=True):
        torch.testing.assert_close(average, old - 9 / 11)


def test_the_published_average_moves_between_steps_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two batches a step the first; after the second the step itself moves it."""
    monkeypatch.setattr(LatentDiffusion, "trainer", SimpleNamespace(accumulate_grad_batches=2))
    for every, expected in (("batch", [1, 1, 2, 2]), ("step", [0] * 4)):
        module = make_module(f"model.ema_every={every}")
        updates = []
        for batch_idx in range(4):
            module.on_train_batch_end(None, {}, batch_idx)
            updates.append(module.ema.updates)
        assert updates == expected


def test_items_draw_from_all_timesteps() -> None:
    found = {int(draw(0, f"{item}", "0", 1, 1).t) for item in range(12000)}
    assert (min(found), max(found)) == (0, 999)


def test_dropout_is_that_of_the_settings_and_acts() -> None:
    conditioner = make_module("model.mixer_dropout=0.3").conditioner
    assert conditioner is not None
    attention = [part.dropout for part in conditioner.modules() if isinstance(part, nn.MultiheadAttention)]
    between = [part.p for part in conditioner.modules() if isinstance(part, nn.Dropout)]
    assert attention == [0.3] * 2
    assert between == [0.3] * 6
    batch = make_batch()
    once, again = (conditioner(batch["vllm_image"], batch["vllm_text"]) for _ in range(2))
    assert not torch.equal(once, again)
    for probability, alike in ((0.0, True), (0.9, False)):
        for kind in (nn.Dropout, nn.MultiheadAttention):  # each of the two alone
            conditioner.set_dropout(0.0)
            for part in conditioner.modules():
                if isinstance(part, kind):
                    setattr(part, "p" if kind is nn.Dropout else "dropout", probability)
            once, again = (conditioner(batch["vllm_image"], batch["vllm_text"]) for _ in range(2))
            assert torch.equal(once, again) == alike


def test_each_batch_of_each_step_and_process_has_its_own_dropout(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the same again when it is trained again."""
    module = make_module()
    trainer = SimpleNamespace(global_step=0)
    monkeypatch.setattr(LatentDiffusion, "trainer", trainer)
    monkeypatch.setattr(LatentDiffusion, "log", lambda *_, **__: None)
    monkeypatch.setattr(LatentDiffusion, "global_rank", property(lambda module: module.trainer.global_rank))
    monkeypatch.setattr(LatentDiffusion, "loss", lambda *_: torch.rand(2))

    def drawn(step: int, batch_idx: int, rank: int) -> float:
        trainer.global_step, trainer.global_rank = step, rank
        return module.training_step({"item": ["a", "b"]}, batch_idx).item()

    places = [(step, batch, rank) for step in range(2) for batch in range(2) for rank in range(2)]
    once = [drawn(*place) for place in places]
    assert len(set(once)) == len(places)
    assert [drawn(*place) for place in places] == once


def test_bad_items_are_those_of_their_own_step(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    module = make_module("trainer.max_nonfinite=9")
    trainer = SimpleNamespace(global_step=0, world_size=1, is_global_zero=True)
    monkeypatch.setattr(LatentDiffusion, "trainer", trainer)
    monkeypatch.setattr(LatentDiffusion, "log", lambda *_, **__: None)
    optimizer = torch.optim.SGD(module.trained().values(), lr=0.0)

    def step(recent: list[str], bad: list[str], gradient: float) -> str:
        caplog.clear()
        module.recent += recent
        module.bad += bad
        for value in module.trained().values():
            value.grad = torch.full_like(value, gradient)
        with caplog.at_level(logging.WARNING):
            module.optimizer_step(0, 0, optimizer, lambda: 0.0)
        return caplog.text

    inf = float("inf")
    assert "loss is not finite; items: b\n" in step(["a", "b"], ["b"], inf)
    assert "gradient is not finite; items: c, d\n" in step(["c", "d"], [], inf)
    assert module.skipped == 2
    assert step(["e"], [], 1.0) == ""
    assert (module.recent, module.bad, module.skipped) == ([], [], 0)
    assert "gradient is not finite; items: f\n" in step(["f"], [], inf)
