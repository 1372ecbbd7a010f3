"""One training step, part by part: draws, weights of timesteps, dropout, what is noted of bad items."""

from __future__ import annotations

import logging
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from egogen.errors import UserError
from ldm.conditioner import embed
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
def test_the_loss_is_the_squared_error_of_the_predicted_noise() -> None:
    """Rombach et al. 2022, equation 2, written out; the second item trains without text and frame."""
    module, batch, t = make_module("model.mixer_dropout=0"), make_batch(), torch.tensor([10, 900])
    assert module.conditioner is not None
    batch["prompt"] = ["cut the apple", "stir"]
    batch["text"] = embed(module.text_encoder, module.tokenizer, batch["prompt"])
    share = training_schedule()["alphas_cumprod"][t].view(2, 1, 1, 1)
    noisy = share.sqrt() * batch["target_latent"] + (1 - share).sqrt() * batch["noise"]
    source = module.vae.encode(batch["source"]).latent_dist.mode()
    text = embed(module.text_encoder, module.tokenizer, ["cut the apple", ""])
    vllm = module.conditioner(batch["vllm_image"], batch["vllm_text"])
    source[1], vllm[1] = 0, 0
    predicted = module.unet(torch.cat([noisy, source], dim=1), t, torch.cat([text, vllm], dim=1)).sample
    wanted = (predicted - batch["noise"]).square().mean((1, 2, 3))
    dropped = torch.tensor([False, True])
    found = module.loss(batch, t=t, drop=Drop(dropped, dropped))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=0)
    assert module.conditions(batch).null_text.equal(embed(module.text_encoder, module.tokenizer, [""]))
    given = module.loss({**batch, "noise": batch["noise"].flip(0)}, t=t, noise=batch["noise"], drop=KEEP)
    assert given.equal(module.loss(batch, t=t, drop=KEEP))
    wider = {**batch, "text": batch["text"].double()}
    assert module.conditions(wider).null_text.dtype == torch.float64
    del batch["text"]  # then the prompts are read
    assert module.loss(batch, t=t, drop=Drop(dropped, dropped)).equal(found)


def test_instructpix2pix_has_no_tokens_of_stage_1() -> None:
    config = make_module().config
    module = LatentDiffusion(build(SHAPE, conditioner=False), config)
    assert module.conditions(make_batch()).vllm is None
    assert {name.partition(".")[0] for name in module.trained()} == {"unet"}


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

    def randint(*ends: object, **_: object) -> torch.Tensor:
        asked.append(ends)
        return torch.tensor([0, 999])

    monkeypatch.setattr(torch, "randint", randint)
    assert make_module().loss(make_batch(), drop=KEEP).shape == (2,)
    assert asked == [(0, 1000, (2,))]


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


@torch.no_grad()
def test_noise_is_drawn_anew_where_the_batch_has_none() -> None:
    module, batch, t = make_module(), make_batch(), torch.tensor([10, 900])
    del batch["noise"]
    torch.manual_seed(3)
    noise = torch.randn(2, 4, 8, 8)
    torch.manual_seed(3)
    assert module.noised(batch, t).noise.equal(noise)
    assert not module.noised(batch, t).noise.equal(noise)


def test_a_posterior_is_drawn_from_anew_where_the_batch_has_no_noise() -> None:
    mean, std = torch.full((2, 4, 8, 8), 5.0), torch.full((2, 4, 8, 8), 0.1)
    torch.manual_seed(3)
    noise = torch.randn(2, 4, 8, 8)
    torch.manual_seed(3)
    assert LatentDiffusion.posterior_draw({}, mean, std).equal(mean + std * noise)
    assert not LatentDiffusion.posterior_draw({}, mean, std).equal(mean + std * noise)


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
    """Of three batches a step the first two; after the third the step itself moves it."""
    monkeypatch.setattr(LatentDiffusion, "trainer", SimpleNamespace(accumulate_grad_batches=3))
    for every, expected in (("batch", [1, 2, 2, 3, 4, 4]), ("step", [0] * 6)):
        module = make_module(f"model.ema_every={every}")
        updates = []
        for batch_idx in range(6):
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


@pytest.fixture
def saved(monkeypatch: pytest.MonkeyPatch) -> tuple[LatentDiffusion, dict[str, Any]]:
    """A module that has learnt, and its checkpoint of step 5, as Lightning hands it over."""
    device = SimpleNamespace(root_device=torch.device("cpu"))
    trainer = SimpleNamespace(is_global_zero=True, accumulate_grad_batches=3, strategy=device)
    monkeypatch.setattr(LatentDiffusion, "trainer", trainer)
    module = make_module()
    with torch.no_grad():
        for value in module.trained().values():
            value += torch.randn_like(value)
    module.ema.update(module.trained())
    content: dict[str, Any] = {"global_step": 5}
    module.on_save_checkpoint(content)
    group = {"lr": 1.0, "initial_lr": 1.0, "betas": (0, 0), "eps": 1.0, "weight_decay": 1.0, "fused": True}
    content["optimizer_states"] = [{"state": {}, "param_groups": [group]}]
    content["lr_schedulers"] = [{"last_epoch": 5, "base_lrs": [1.0], "_last_lr": [1.0]}]
    counts = dict.fromkeys(("ready", "started", "processed", "completed"), 99)
    progress = {"total": dict(counts), "current": dict(counts)}
    content["loops"] = {"fit_loop": {"epoch_loop.batch_progress": progress}}
    return module, content


def test_a_checkpoint_is_taken_over_with_the_settings_of_this_run(
    saved: tuple[LatentDiffusion, dict[str, Any]],
) -> None:
    """Weights, averages, rates; and batches as of three a step, however many it took before."""
    module, content = saved
    again = make_module("optimizer.lr=0.002", "optimizer.schedule=cosine", "trainer.max_steps=10")
    again.on_load_checkpoint(content)
    for name, value in module.trained().items():
        assert value.equal(again.trained()[name])
    for name, average in module.ema.values().items():
        assert average.equal(again.ema.values()[name])
    assert again.ema.updates == 1
    assert content["state_dict"].keys() == again.state_dict().keys()
    expected = {"ready": 15, "started": 15, "processed": 15, "completed": 14}
    assert content["loops"]["fit_loop"]["epoch_loop.batch_progress"] == {
        "total": expected,
        "current": expected,
    }
    (group,) = content["optimizer_states"][0]["param_groups"]
    assert group["lr"] == pytest.approx(0.001)  # half of the way down a cosine
    assert (group["initial_lr"], group["fused"]) == (0.002, None)


def test_each_group_of_parameters_goes_on_at_its_own_rate_and_on_a_gpu_in_one_kernel(
    saved: tuple[LatentDiffusion, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, content = saved
    again = make_module("optimizer.lr=0.002")
    monkeypatch.setattr(LatentDiffusion, "apart", lambda _: {"some": 10.0})
    monkeypatch.setattr(again.trainer.strategy, "root_device", torch.device("cuda"))
    (state,) = content["optimizer_states"]
    state["param_groups"] *= 2
    state["param_groups"] = [dict(group) for group in state["param_groups"]]
    again.on_load_checkpoint(content)
    assert [group["initial_lr"] for group in state["param_groups"]] == [0.002, 0.02]
    assert [group["fused"] for group in state["param_groups"]] == [True, True]


def test_frozen_parts_are_compared_as_far_as_both_have_them(
    saved: tuple[LatentDiffusion, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever numbers the checkpoint keeps them in; what it lacks is told where weights are loaded."""
    module, content = saved
    state = content["state_dict"]
    module.check_frozen({})
    module.check_frozen({name: value.double() for name, value in state.items()})
    monkeypatch.setattr(LatentDiffusion, "frozen", ("vae", "conditioner"))
    module.check_frozen(state)
    module.conditioner = None
    module.check_frozen(state)


@pytest.mark.parametrize("part", ["vae", "text_encoder"])
def test_what_latents_and_texts_were_made_by_must_be_the_same(
    saved: tuple[LatentDiffusion, dict[str, Any]], part: str
) -> None:
    _, content = saved
    again = make_module()
    name, value = [*getattr(again, part).named_parameters()][-1]
    with torch.no_grad():
        value += 1
    with pytest.raises(UserError) as told:
        again.on_load_checkpoint(content)
    assert str(told.value) == (
        f"model.start: its {part} is not that of the checkpoint to resume (tensor {name!r}); "
        "set it to what the run was begun with"
    )


def test_a_checkpoint_that_lacks_a_weight_is_refused(
    saved: tuple[LatentDiffusion, dict[str, Any]],
) -> None:
    module, content = saved
    name = module.stored_names()[next(iter(module.trained()))]
    del content["state_dict"][name]
    with pytest.raises(UserError, match="checkpoint to resume: "):
        make_module().on_load_checkpoint(content)


def test_the_first_process_alone_writes(
    saved: tuple[LatentDiffusion, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    module, _ = saved
    monkeypatch.setattr(LatentDiffusion, "trainer", SimpleNamespace(is_global_zero=False))
    content: dict[str, Any] = {}
    module.on_save_checkpoint(content)
    assert content == {"state_dict": {}}
