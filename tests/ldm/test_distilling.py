"""The method of distillation at toy size, against single passes, stock schedulers and closed forms."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from functools import partial

import pytest
import torch

from egogen.errors import UserError
from egogen.seeds import item_seed
from ldm.config.distillation import DistillConfig
from ldm.config.merge import load_config
from ldm.data.noise import draw
from ldm.distilling.distiller import LAYER, Distiller
from ldm.distilling.teacher import predict
from ldm.guidance import build_context, guide
from ldm.module import Noised
from ldm.networks.architecture import Parts, build
from ldm.networks.distilled import Distilled
from ldm.networks.scales import (
    add_scale_layer,
    distilled_of,
)
from tests.ldm.test_phases import TRAILING
from tests.ldm.toy_run import SHAPE, WIDTH

# Rounding in 32 bits of networks whose batches differ, enlarged by guidance of a few times.
CLOSE = {"rtol": 0, "atol": 2e-5}


def parts_of(seed: int = 3) -> Parts:
    torch.manual_seed(seed)
    return build(SHAPE)


def settings(*words: str) -> DistillConfig:
    config = load_config(DistillConfig, [], [*words, "model.gradient_checkpointing=false"])
    return replace(config, model=replace(config.model, architecture=SHAPE))


def distiller(*words: str, teacher: Parts | None = None) -> Distiller:
    parts = teacher or parts_of()
    return Distiller(parts, deepcopy(parts.unet), settings(*words))


def of_phases(count: int, *words: str) -> Distiller:
    drawn = ["sampling.scheduler=ddim_trailing", f"sampling.steps={count}"]
    return distiller("distill.method=consistency", f"distill.phases={count}", *drawn, *words)


def randomise(module: Distiller) -> Distiller:
    """Makes student and average two networks that listen to the scales."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        layer = module.trained()[LAYER]
        layer.copy_(0.05 * torch.randn(layer.shape, generator=generator))
        for index, value in enumerate(module.ema.shadow):
            value += 0.01 * torch.randn(value.shape, generator=generator)
            if module.ema.names[index] == LAYER:
                value.copy_(0.05 * torch.randn(value.shape, generator=generator))
    return module


@pytest.fixture(scope="module")
def batch() -> dict[str, object]:
    generator = torch.Generator().manual_seed(0)
    random = partial(torch.randn, generator=generator)
    return {
        "prompt": ["open the drawer", "cut the apple", "stir"],
        "item": ["a/0", "b/0", "c/0"],
        "source_latent": random(3, 4, 16, 16),
        "target_moments": torch.cat([random(3, 4, 16, 16), torch.full((3, 4, 16, 16), 0.1)], dim=1),
        "posterior_noise": random(3, 4, 16, 16),
        "vllm_image": random(3, 256, WIDTH),
        "vllm_text": random(3, 77, WIDTH),
        "noise": random(3, 4, 16, 16),
        "scales": torch.rand(3, 2, generator=generator),
        "t": torch.tensor([10, 500, 990]),
    }


# --- the guided teacher --------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("scales", [[[3.0, 1.5], [7.5, 1.0], [14.0, 3.0]], [[1.0, 1.0]] * 3])
def test_the_target_is_guide_of_three_single_passes(
    batch: dict[str, object], scales: list[list[float]]
) -> None:
    module = distiller()
    noised, conditions, given = module.noised(batch), module.conditions(batch), torch.tensor(scales)
    found = module.teacher(noised.latents, noised.t, noised.source, conditions, given)
    null = build_context(*conditions, drop_text=torch.ones(3, dtype=torch.bool))
    one = partial(predict, module.teacher_unet, noised.latents, noised.t)
    full = one(noised.source, build_context(*conditions))
    image_only, nothing = one(noised.source, null), one(torch.zeros_like(noised.source), null)
    for row in range(3):
        wanted = guide(full[row : row + 1], image_only[row : row + 1], nothing[row : row + 1], *scales[row])
        torch.testing.assert_close(found[row : row + 1], wanted, **CLOSE)
    if scales[0] == [1.0, 1.0]:
        torch.testing.assert_close(found, full, **CLOSE)
    else:
        assert (found - full).abs().max() > 0.01


@torch.no_grad()
def test_a_distilled_teacher_is_asked_once(batch: dict[str, object]) -> None:
    parts = parts_of()
    add_scale_layer(parts.unet)
    torch.nn.init.normal_(parts.unet.time_embedding.cond_proj.weight, std=0.05)
    module = distiller(teacher=parts)
    seen: list[int] = []
    parts.unet.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    noised, conditions, scales = module.noised(batch), module.conditions(batch), module.scales(batch)
    found = module.teacher(noised.latents, noised.t, noised.source, conditions, scales)
    assert seen == [3]
    wanted = module.predict(noised, conditions, scales)  # the student is a copy, layer and all
    torch.testing.assert_close(found, wanted, **CLOSE)


@torch.no_grad()
def test_a_network_of_another_precision_is_asked_in_its_own_and_answers_in_32_bits() -> None:
    unet, generator = parts_of().unet, torch.Generator().manual_seed(0)
    add_scale_layer(unet)
    latents, source = torch.randn(2, 1, 4, 16, 16, generator=generator)
    context, scales = torch.randn(1, 9, 32, generator=generator), torch.tensor([[3.0, 1.5]])
    asked = (latents, torch.tensor([500]), source, context, scales)
    wanted = predict(unet, *asked)
    found = predict(unet.double(), *asked)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, wanted, **CLOSE)


# --- the student ---------------------------------------------------------------------------------------


@torch.no_grad()
def test_the_student_begins_as_the_teachers_full_pass(batch: dict[str, object]) -> None:
    module = distiller()
    noised, conditions = module.noised(batch), module.conditions(batch)
    context = build_context(*conditions)
    full = predict(module.teacher_unet, noised.latents, noised.t, noised.source, context)
    for scales in ([[1.0, 1.0]] * 3, [[14.0, 3.0]] * 3):
        assert module.predict(noised, conditions, torch.tensor(scales)).equal(full)
    # So its loss is the weighted distance of the full pass from the guided one.
    wanted = module.teacher(noised.latents, noised.t, noised.source, conditions, module.scales(batch))
    torch.testing.assert_close(
        module.loss(batch), ((full - wanted) ** 2).mean(dim=(1, 2, 3)), rtol=1e-5, atol=0
    )


def test_only_the_student_learns_and_the_new_layer_faster(batch: dict[str, object]) -> None:
    module = distiller("optimizer.lr=1e-5", "optimizer.p2_gamma=1")
    assert {name.split(".")[0] for name in module.trained()} == {"unet"}
    optimizer = module.configure_optimizers()["optimizer"]
    rest, layer = optimizer.param_groups
    assert (rest["lr"], layer["lr"], len(layer["params"])) == (1e-5, pytest.approx(1e-4), 1)
    assert layer["params"][0] is module.trained()[LAYER]
    assert len(rest["params"]) == len(module.trained()) - 1
    losses = module.loss(batch)
    plain = distiller().loss(batch)
    torch.testing.assert_close(losses, plain * module.timestep_weight[batch["t"]])
    losses.mean().backward()
    assert all(value.grad is not None and value.grad.abs().sum() > 0 for value in layer["params"])
    others = (module.teacher_unet, module.vae, module.text_encoder, module.conditioner)
    assert not any(value.requires_grad for part in others for value in part.parameters())
    assert not any(part.training for part in others)


def test_a_few_steps_bring_the_student_nearer(batch: dict[str, object]) -> None:
    module = distiller("optimizer.lr=1e-3")
    optimizer = module.configure_optimizers()["optimizer"]
    losses = []
    for _ in range(6):
        loss = module.loss(batch).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


@torch.no_grad()
def test_nothing_is_dropped_and_scales_fill_their_ranges(batch: dict[str, object]) -> None:
    module = distiller("distill.text_scales=[1,5]", "distill.image_scales=[1,2]", "sampling.scales_txt=[3]")
    assert module.loss({**batch, "drop": torch.zeros(3)}).equal(module.loss(batch))
    ends = {**batch, "scales": torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.5, 0.25]])}
    assert module.scales(ends).tolist() == [[1, 1], [5, 2], [3, 1.25]]
    without = {name: value for name, value in batch.items() if name != "scales"}
    once, again = module.scales(without), module.scales(without)  # drawn anew
    assert once.shape == (3, 2)
    assert ((once >= 1) & (once <= torch.tensor([5.0, 2.0]))).all()
    assert not once.equal(again)
    assert distilled_of(module.unet) == Distilled([1, 5], [1, 2])


@torch.no_grad()
@pytest.mark.parametrize("phases", [None, 4])
def test_what_is_given_to_the_loss_counts_and_not_the_batchs(
    batch: dict[str, object], phases: int | None
) -> None:
    module = randomise(of_phases(phases) if phases else distiller())
    t, noise = torch.tensor([300, 10, 700]), torch.randn(3, 4, 16, 16)
    scales = torch.tensor([[3.0, 1.0], [2.0, 2.0], [7.5, 1.5]])
    noised, conditions = module.noised({**batch, "t": t, "noise": noise}), module.conditions(batch)
    if phases:
        found = module.student_jump(noised, conditions, scales) - module.consistent(
            noised, conditions, scales
        )
        d = module.distillation.huber
        wanted = ((found**2 + d**2).sqrt() - d).mean(dim=(1, 2, 3))
    else:
        target = module.teacher(noised.latents, noised.t, noised.source, conditions, scales)
        wanted = ((module.predict(noised, conditions, scales) - target) ** 2).mean(dim=(1, 2, 3))
    assert module.loss(batch, t=t, noise=noise, scales=scales).equal(wanted)
    assert not module.loss(batch).equal(wanted)


def test_draws_of_before_are_as_they_were() -> None:
    generator = torch.Generator().manual_seed(item_seed(23, "0", "clip/1"))
    t = torch.randint(0, 1000, (), generator=generator)
    noise, posterior = torch.randn(2, 4, 3, 5, generator=generator)
    drop, flip = torch.rand(2, generator=generator)
    found = draw(23, "clip/1", "0", 3, 5)
    for value, wanted in zip(found[:4], (t, noise, posterior, drop), strict=True):
        assert value.equal(wanted)
    assert found.flip == flip.item()
    assert found.scales.equal(torch.rand(2, generator=generator))


# --- phases --------------------------------------------------------------------------------------------


@torch.no_grad()
def test_with_one_phase_the_target_is_that_of_latent_consistency(batch: dict[str, object]) -> None:
    """Witness: a stock scheduler's clean latent, which LCM's target is but for c_skip."""
    module = randomise(of_phases(1))
    noised, conditions, scales = module.noised(batch), module.conditions(batch), module.scales(batch)
    assert noised.t.tolist() == [24, 524, 999]
    guided = module.teacher(noised.latents, noised.t, noised.source, conditions, scales)
    scheduler = TRAILING()
    scheduler.set_timesteps(40)
    found = module.consistent(noised, conditions, scales)
    for row, now in enumerate(noised.t.tolist()):
        moved = scheduler.step(guided[row], now, noised.latents[row]).prev_sample
        if now == 24:  # t' is the clean end: x' itself
            torch.testing.assert_close(found[row], moved, rtol=1e-5, atol=2e-5)
            continue
        there = noised._replace(latents=moved.expand(3, -1, -1, -1), t=torch.full((3,), now - 25))
        with module.ema.applied(module.trained()):
            predicted = module.predict(there, conditions, scales)[row]
        clean = scheduler.step(predicted, now - 25, moved).pred_original_sample
        torch.testing.assert_close(found[row], clean, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_the_target_is_the_averages_and_at_an_edge_the_teachers(batch: dict[str, object]) -> None:
    module = randomise(of_phases(4))
    at = {**batch, "t": torch.tensor([770, 780, 5])}  # t' = 749 is an edge; within a phase; the clean end
    noised, conditions, scales = module.noised(at), module.conditions(at), module.scales(at)
    assert noised.t.tolist() == [774, 799, 24]
    moved = module.teacher_step(noised, conditions, scales)
    found = module.consistent(noised, conditions, scales)
    for row in (0, 2):
        assert found[row].equal(moved[row])
    there = Noised(moved, torch.tensor([749, 774, 0]), noised.noise, noised.source)
    own = module.student_jump(there, conditions, scales)[1]
    with module.ema.applied(module.trained()):
        average = module.student_jump(there, conditions, scales)[1]
    assert found[1].equal(average)
    assert not average.equal(own)
    # Huber: far from the target it is the absolute distance, and at it nothing.
    far, near = torch.full((2, 4, 3, 3), 5.0), torch.zeros(2, 4, 3, 3)
    torch.testing.assert_close(module.pseudo_huber(far, near), torch.full((2,), 4.999), rtol=0, atol=1e-5)
    assert module.pseudo_huber(near, near).tolist() == [0, 0]


def test_a_consistency_step_trains_the_student_alone(batch: dict[str, object]) -> None:
    module = randomise(of_phases(2))
    before = [value.clone() for value in module.trained().values()]
    module.loss(batch).mean().backward()
    assert all(value.equal(old) for value, old in zip(module.trained().values(), before, strict=True))
    assert module.trained()[LAYER].grad.abs().sum() > 0
    assert all(value.grad is None for value in module.teacher_unet.parameters())


@torch.no_grad()
def test_validation_compares_a_jump_with_the_teachers_path(batch: dict[str, object]) -> None:
    """Witness: stock DDIM over the guided teacher's predictions."""
    module = randomise(of_phases(8))
    found = module.measure(batch)()
    conditions, scales = module.conditions(batch), module.scales(batch)
    noised = module.noised({**batch, "t": torch.tensor([124, 624, 999])})
    scheduler = TRAILING()
    scheduler.set_timesteps(40)
    for row in range(3):
        x, now = noised.latents.clone(), int(noised.t[row])
        for t in range(now, now - 125, -25):
            times = torch.full((3,), t)
            guided = module.teacher(x, times, noised.source, conditions, scales)
            x = scheduler.step(guided, t, x).prev_sample
        jumped = module.student_jump(noised, conditions, scales)
        torch.testing.assert_close(found[row], module.pseudo_huber(jumped, x)[row], rtol=1e-3, atol=1e-5)


# --- settings ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["distill.text_scales=[5,1]"], r"distill.text_scales: got \[5.0, 1.0\], allowed: the lowest"),
        (["distill.phases=3"], r"distill.phases: got 3, allowed: 1, 2, 4, 8"),
        (["distill.grid=50", "distill.phases=4"], r"distill.grid: got 50, allowed: a divisor of 1000"),
        (["distill.method=progressive"], r"distill.method: got 'progressive', allowed: guid"),
        (["model.train_conditioner=true"], r"train_conditioner: got True, allowed: false in a"),
        (["model.drop_each=0.05"], r"model.drop_each: got 0.05, allowed: 0.0 in a distillation"),
        (["sampling.scales_txt=[20]"], r"sampling.scales_txt: got 20.0, allowed: 1 to 14"),
        (["sampling.interval_txt=[0.3,5]"], r"sampling.interval_txt: got \[0.3, 5.0\], allowed: \[\] in a"),
        (["distill.method=consistency"], r"sampling.steps: got 100, allowed: 4: this checkpoint"),
        (["distill.method=consistency", "sampling.steps=4"], r"sampling.scheduler: got 'euler_ancestral'"),
        (
            ["distill.method=consistency", "sampling.steps=4", "sampling.scheduler=ddim_trailing",
             "optimizer.p2_gamma=1"],
            r"optimizer.p2_gamma: got 1.0, allowed: 0 with distill.method=consistency",
        ),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit_are_named(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        settings(*words)
