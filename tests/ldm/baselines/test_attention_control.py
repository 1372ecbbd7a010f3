"""Attention control: who attends to whom, in which layers and steps; without an edit it changes nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ldm.baselines.control import Layer, attention_layers, controlled
from ldm.baselines.mutual_attention import MutualSelfAttention
from ldm.baselines.prompt_to_prompt import PromptToPrompt
from ldm.baselines.proxnpi import RELEASED_LIMIT, ProxNPI
from ldm.baselines.stable_diffusion import StableDiffusion
from ldm.baselines.token_maps import TokenMap
from ldm.config.baselines import ProxNPIConfig
from tests.ldm.baselines.small import latents, small

CROSS, SELF = Layer(2, True), Layer(2, False)


@pytest.fixture(scope="module")
def model() -> StableDiffusion:
    return small()


def rows(tokens: int, seed: int) -> Tensor:
    """Four groups of two rows."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(8, 3, tokens, 5, dtype=torch.float64, generator=generator)


def maps(cross: Tensor | None = None, share: float = 1.0, factor: float = 1.0) -> TokenMap:
    matrix = torch.eye(77) if cross is None else cross
    return TokenMap(matrix.expand(2, 77, 77), torch.full((2, 77), share), torch.full((2, 77), factor))


def weights(query: Tensor, key: Tensor) -> Tensor:
    return (query @ key.mT / query.shape[-1] ** 0.5).softmax(-1)


def test_cross_attention_is_taken_over_by_the_target_with_text_alone() -> None:
    query, key, value = rows(6, 0), rows(77, 1), rows(77, 2)
    own = weights(query, key) @ value
    control = PromptToPrompt(maps(), cross_steps=1, self_steps=0, self_limit=0)
    found = control.attend(query, key, value, CROSS)
    torch.testing.assert_close(found[:6], own[:6])
    torch.testing.assert_close(found[6:], weights(query[4:6], key[4:6]) @ value[6:])
    control.step = 1
    torch.testing.assert_close(control.attend(query, key, value, CROSS), own)


@pytest.mark.parametrize(("share", "factor"), [(1.0, 2.0), (0.0, 1.0), (0.0, 3.0), (0.5, 1.0)])
def test_maps_mix_and_weigh(share: float, factor: float) -> None:
    query, key, value = rows(6, 0), rows(77, 1), rows(77, 2)
    moved = torch.eye(77).roll(3, dims=1)
    source, target = weights(query[4:6], key[4:6]), weights(query[6:], key[6:])
    expected = factor * (share * source.roll(3, dims=-1) + (1 - share) * target) @ value[6:]
    control = PromptToPrompt(maps(moved, share, factor), cross_steps=1, self_steps=0, self_limit=0)
    torch.testing.assert_close(control.attend(query, key, value, CROSS)[6:], expected)


@pytest.mark.parametrize(("limit", "step", "taken"), [(16, 0, True), (15, 0, False), (16, 2, False)])
def test_self_attention_is_taken_over_up_to_a_size_and_a_step(limit: int, step: int, taken: bool) -> None:
    query, key, value = rows(16, 0), rows(16, 1), rows(16, 2)
    control = PromptToPrompt(maps(), cross_steps=0, self_steps=2, self_limit=limit)
    control.step = step
    found = control.attend(query, key, value, SELF)
    torch.testing.assert_close(found[:6], (weights(query, key) @ value)[:6])
    whose = slice(4, 6) if taken else slice(6, 8)
    torch.testing.assert_close(found[6:], weights(query[whose], key[whose]) @ value[6:])


@pytest.mark.parametrize(("mode", "tokens"), [("src", [0]), ("joint", [0, 2]), ("none", [2])])
@pytest.mark.parametrize("text", [False, True], ids=["null", "text"])
def test_mutual_attention_sees_the_source(mode: str, tokens: list[int], text: bool) -> None:
    query, key, value = rows(16, 0), rows(16, 1), rows(16, 2)
    modes = ("none", mode) if text else (mode, "none")
    control = MutualSelfAttention(0, 0, *modes)
    found = control.attend(query, key, value, SELF)
    first = 4 if text else 0
    expected = weights(query, key) @ value
    keys, values = (
        torch.cat([part[first + i : first + i + 2] for i in tokens], dim=2) for part in (key, value)
    )
    expected[first + 2 : first + 4] = weights(query[first + 2 : first + 4], keys) @ values
    torch.testing.assert_close(found, expected)


def test_mutual_attention_waits_for_its_step_and_block() -> None:
    query, key, value = rows(16, 0), rows(16, 1), rows(16, 2)
    own = weights(query, key) @ value
    for first_step, first_block, layer in ((1, 0, SELF), (0, 3, SELF), (0, 0, CROSS)):
        control = MutualSelfAttention(first_step, first_block, "src", "src")
        torch.testing.assert_close(control.attend(query, key, value, layer), own)


def test_mutual_attention_goes_on_to_the_last_step_and_block() -> None:
    """The released one ends with step 50 and block 16 (F-BL-15)."""
    query, key, value = rows(16, 0), rows(16, 1), rows(16, 2)
    control = MutualSelfAttention(4, 0, "src", "src")
    control.step = 49
    expected = control.attend(query, key, value, SELF)
    assert not torch.allclose(expected, weights(query, key) @ value)
    control.step = 99
    torch.testing.assert_close(control.attend(query, key, value, SELF), expected)
    torch.testing.assert_close(control.attend(query, key, value, Layer(20, False)), expected)


def test_layers_are_counted_as_the_unet_runs(model: StableDiffusion) -> None:
    order: list[str] = []
    hooks = [
        module.register_forward_hook(lambda *_, name=name: order.append(f"{name}.processor"))
        for name, module in model.unet.named_modules()
        if name.endswith((".attn1", ".attn2"))
    ]
    model.predict(latents(), 5, model.embed([""]))
    for hook in hooks:
        hook.remove()
    layers = attention_layers(model.unet)
    assert list(layers) == order
    assert set(layers) == set(model.unet.attn_processors)
    assert list(layers.values()) == [Layer(i // 2, bool(i % 2)) for i in range(len(order))]


@torch.no_grad()
def test_a_control_that_does_nothing_is_the_unet_itself(model: StableDiffusion) -> None:
    inputs, context = latents(4), model.embed(["a", "b", "open the box", "cut the apple"])
    plain = model.predict(inputs, 301, context)
    idle = PromptToPrompt(maps(), cross_steps=0, self_steps=0, self_limit=0)
    for control in (idle, MutualSelfAttention(0, 4, "src", "src"), MutualSelfAttention(0, 0, "none", "none")):
        with controlled(model.unet, control):
            torch.testing.assert_close(model.predict(inputs, 301, context), plain, rtol=0, atol=1e-12)


@pytest.mark.parametrize("controller", ["refine", "replace"])
def test_control_without_an_edit_is_the_identity(model: StableDiffusion, controller: str) -> None:
    """The same prompt twice. Without guidance to the source, whose region would be one of rounding errors."""

    def edit(**options: Any) -> Tensor:
        settings = ProxNPIConfig(
            steps=5, cross_replace=1.0, self_replace=1.0, inversion_guidance=False, **options
        )
        same = ["open the box with the left hand"]
        return ProxNPI(model, latents(), same, same, settings).edit()

    torch.testing.assert_close(edit(controller=controller), edit(controller="none"), rtol=0, atol=1e-9)


@pytest.mark.parametrize(("rule", "limit"), [("scaled", 16), ("released", RELEASED_LIMIT)])
def test_the_limit_of_self_attention(model: StableDiffusion, rule: str, limit: int) -> None:
    """Scaled: all levels but the finest, which are 32 x 32 tokens at 512 pixels and 16 x 16 at 256."""
    edit = ProxNPI(model, latents(), ["a"], ["b"], ProxNPIConfig(self_limit=rule))
    assert edit.control is not None
    assert edit.control.self_limit == limit


@pytest.mark.parametrize("size", [(5, 7), (25, 25), (8, 11), (16, 32)])
def test_the_second_level_is_below_the_limit_at_any_size(
    model: StableDiffusion, size: tuple[int, int]
) -> None:
    """A UNet halves sides upwards, by convolutions of stride 2."""
    finest = torch.zeros(1, model.unet.config.block_out_channels[0], *size, dtype=torch.float64)
    second = model.unet.down_blocks[0].downsamplers[0](finest)
    control = ProxNPI(model, torch.zeros(1, 4, *size).double(), ["a"], ["b"], ProxNPIConfig()).control
    assert control is not None
    assert control.self_limit == second[0, 0].numel()


def test_steps_of_control_are_counted_as_released(model: StableDiffusion) -> None:
    for steps, cross, own in ((10, 4, 6), (50, 20, 30)):
        control = ProxNPI(model, latents(), ["a"], ["b"], ProxNPIConfig(steps=steps)).control
        assert control is not None
        assert (control.cross_steps, control.self_steps) == (cross, own)
