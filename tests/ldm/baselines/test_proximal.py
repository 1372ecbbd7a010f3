"""Proximal operators against their definitions; ProxNPI and ProxMasaCtrl by what must follow from them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from egogen.errors import UserError
from ldm.baselines.pair_edit import PairEdit, slerp
from ldm.baselines.proximal import edited_region, find_threshold, shrink
from ldm.baselines.proxmasactrl import ProxMasaCtrl
from ldm.baselines.proxnpi import ProxNPI
from ldm.baselines.stable_diffusion import StableDiffusion
from ldm.config.baselines import ProxConfig, ProxMasaCtrlConfig, ProxNPIConfig
from ldm.config.merge import validated
from ldm.config.sections import GenerateConfig
from ldm.diffusion.ddim import denoise
from tests.ldm.baselines.small import latents, small

SOURCES = ["a box on a table", "", "a hand holds the cup"]
TARGETS = ["open the box with the left hand", "cut the apple", "pour water into the cup"]


@pytest.fixture(scope="module")
def model() -> StableDiffusion:
    return small()


def shrunk(values: Any, threshold: float, **names: str) -> Tensor:
    delta = torch.as_tensor(values, dtype=torch.float64).reshape(1, 1, 1, 1, -1)
    return shrink(
        delta, torch.full((1, 1, 1, 1), threshold, dtype=torch.float64), ProxConfig(**names)
    ).flatten()


@given(st.floats(-4, 4), st.floats(0.05, 2))
@settings(max_examples=50, deadline=None)
def test_soft_and_hard_thresholds_minimize_what_they_are_the_prox_of(value: float, weight: float) -> None:
    """Over all x, of (x - value)^2 / 2 plus weight |x|, or plus weight^2 / 2 where x is not 0."""
    grid = np.union1d(np.linspace(-4, 4, 8001), [0.0, value, value - weight, value + weight])
    costs = {
        "soft": (grid - value) ** 2 / 2 + weight * abs(grid),
        "hard": (grid - value) ** 2 / 2 + weight**2 / 2 * (grid != 0),
    }
    for kind, cost in costs.items():
        found = float(shrunk([value], weight, prox="l0", l0_threshold=kind))
        assert np.interp(found, grid, cost) == pytest.approx(cost.min(), abs=1e-5) or found in grid
        penalty = weight * abs(found) if kind == "soft" else weight**2 / 2 * (found != 0)
        assert (found - value) ** 2 / 2 + penalty <= cost.min() + 1e-9


def test_l1_as_released_is_neither_odd_nor_monotone() -> None:
    found = shrunk([-3.5, -2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 3.5], 1.0, prox="l1")
    assert found.tolist() == pytest.approx([-1.5, -0.5, 0.5, 0.0, 0.0, 0.5, 0.5, 1.5])


def test_none_leaves_guidance_as_it_is() -> None:
    assert shrunk([-3.5, 0.1, 2.0], 1.0, prox="none").tolist() == [-3.5, 0.1, 2.0]


@pytest.mark.parametrize("quantile", [0.05, 0.5, 0.75, 1.0])
def test_lambda_is_a_quantile_of_each_pair(quantile: float) -> None:
    delta = torch.randn(2, 3, 4, 5, 7, generator=torch.Generator().manual_seed(0))
    found = find_threshold(delta, quantile)
    for pair in range(3):
        assert float(found[pair]) == pytest.approx(
            np.quantile(delta[:, pair].abs().numpy(), quantile), abs=1e-6
        )
    assert find_threshold(delta, -0.3).flatten().tolist() == pytest.approx([0.3] * 3)
    assert find_threshold(delta, 0.0).abs().max() == 0


@pytest.mark.parametrize("radius", [0, 1, 2])
def test_the_edited_region_grows_by_its_radius(radius: int) -> None:
    delta = torch.zeros(2, 1, 4, 9, 11)
    delta[1, 0, 2, 4, 5] = -3.0
    region = edited_region(delta, torch.ones(1, 1, 1, 1), radius)
    assert region.sum() == (2 * radius + 1) ** 2
    assert region[1, 0, 2, 4 - radius : 5 + radius, 5 - radius : 6 + radius].all()


def test_slerp_keeps_to_the_circle() -> None:
    one, other = torch.zeros(1, 2, 2), torch.zeros(1, 2, 2)
    one[0, 0, 0], other[0, 1, 1] = 3.0, 3.0
    torch.testing.assert_close(slerp(one, other, 0.0), one)
    torch.testing.assert_close(slerp(one, other, 1.0), other)
    torch.testing.assert_close(slerp(one, other, 0.5), (one + other) / 2**0.5)
    for share in (0.0, 0.5, 1.0):
        torch.testing.assert_close(slerp(one, one, share), one)
        torch.testing.assert_close(slerp(one, -one, share).isfinite().all(), torch.tensor(True))


def test_prompts_of_any_length_are_cut_to_77_tokens(model: StableDiffusion) -> None:
    """The released ProxMasaCtrl does not cut (F-BL-16)."""
    longer = "the left hand opens the box " * 30
    found = model.embed([longer, "a"])
    assert found.shape[:2] == (2, 77)
    torch.testing.assert_close(found[:1], model.embed([longer[: len(longer) // 2]]))
    edit = ProxMasaCtrl(model, latents(), [longer], [longer], ProxMasaCtrlConfig(steps=1, masa_layer=0))
    assert edit.edit().isfinite().all()


def make(
    kind: type[PairEdit[Any]], model: StableDiffusion, options: Any, rows: slice = slice(0, 1)
) -> PairEdit[Any]:
    return kind(model, latents(3)[rows], SOURCES[rows], TARGETS[rows], options)


@torch.no_grad()
def reconstruction(edit: PairEdit[Any]) -> Tensor:
    def predict(x: Tensor, t: int) -> Tensor:
        return edit.model.predict(x, t, edit.source)

    return denoise(predict, edit.invert()[-1], edit.grid, edit.settings.steps)


@pytest.mark.parametrize("prox", ["l0", "l1"])
def test_with_quantile_1_proxnpi_reconstructs(model: StableDiffusion, prox: str) -> None:
    """Nothing exceeds the largest difference, so the source prompt alone draws both branches."""
    options = ProxNPIConfig(steps=10, quantile=1.0, prox=prox, controller="none", inversion_guidance=False)
    edit = make(ProxNPI, model, options)
    source, target = edit.edit()
    torch.testing.assert_close(target, source, rtol=0, atol=1e-9)
    torch.testing.assert_close(target, reconstruction(edit), rtol=0, atol=1e-9)
    # And pulled back to the inverted path all the way, it is the frame itself.
    options = ProxNPIConfig(steps=10, quantile=1.0, prox=prox, recon_t=1001)
    assert torch.equal(make(ProxNPI, model, options).edit()[1], latents(3)[:1])


def test_reconstruction_guidance_leaves_an_edit_nearer_to_the_frame(model: StableDiffusion) -> None:
    def distance(**options: Any) -> float:
        edit = make(ProxNPI, model, ProxNPIConfig(steps=10, recon_t=1001, **options))
        return float((edit.edit()[1] - edit.clean).square().mean())

    plain = distance(inversion_guidance=False)
    assert distance(inversion_guidance=False, reconstruction_guidance=True, recon_lr=0.5) < plain
    assert distance(inversion_guidance=True, recon_lr=0.5) < plain


def test_the_source_branch_follows_the_inverted_path(model: StableDiffusion) -> None:
    edit = make(ProxNPI, model, ProxNPIConfig(steps=6, recon_t=1001))
    torch.testing.assert_close(edit.edit()[0], edit.clean, rtol=0, atol=0)
    plain = make(ProxMasaCtrl, model, ProxMasaCtrlConfig(steps=6, masa_layer=4))
    torch.testing.assert_close(plain.edit()[0], reconstruction(plain), rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (ProxNPI, ProxNPIConfig(steps=4)),
        (
            ProxNPI,
            ProxNPIConfig(steps=4, npi_interp=0.5, reconstruction_guidance=True, reweight={"box": 2.0}),
        ),
        (ProxMasaCtrl, ProxMasaCtrlConfig(steps=4, masa_layer=1, masa_step=1)),
        (ProxMasaCtrl, ProxMasaCtrlConfig(steps=4, masa_layer=0, inject_uncond="joint", inject_cond="none")),
        (
            ProxMasaCtrl,
            ProxMasaCtrlConfig(steps=4, masa_layer=0, npi=False, npi_step=2, query_intermediate=True),
        ),
    ],
    ids=["npi", "npi_interp", "masa", "masa_joint", "masa_steps"],
)
def test_a_batch_is_its_pairs_alone(model: StableDiffusion, kind: type[PairEdit[Any]], options: Any) -> None:
    together = make(kind, model, options, slice(0, 3)).edit()
    assert together.isfinite().all()
    for row in range(3):
        alone = make(kind, model, options, slice(row, row + 1)).edit()
        torch.testing.assert_close(alone[:, 0], together[:, row], rtol=0, atol=1e-8)


def test_edits_leave_the_unet_as_it_was(model: StableDiffusion) -> None:
    before = dict(model.unet.attn_processors)
    make(ProxNPI, model, ProxNPIConfig(steps=2)).edit()
    assert model.unet.attn_processors == before


@pytest.mark.parametrize(
    ("section", "options", "message"),
    [
        ("proxnpi", {"prox": "l2"}, r"proxnpi.prox: got 'l2', allowed: l0, l1, none"),
        ("proxnpi", {"quantile": 1.5}, r"proxnpi.quantile: got 1.5, allowed: at most 1"),
        (
            "proxnpi",
            {"quantile": float("-inf")},
            r"proxnpi.quantile: got -inf, allowed: a finite number, at most 1",
        ),
        ("proxnpi", {"quantile": float("nan")}, r"proxnpi.quantile: got nan"),
        ("proxnpi", {"guidance": float("inf")}, r"proxnpi.guidance: got inf, allowed: a finite number"),
        ("proxmasactrl", {"guidance": float("nan")}, r"proxmasactrl.guidance: got nan"),
        (
            "proxnpi",
            {"reweight": {"cup": float("nan")}},
            r"proxnpi.reweight.cup: got nan, allowed: a finite number",
        ),
        ("proxnpi", {"steps": 0}, r"proxnpi.steps: got 0, allowed: 1 to 999"),
        (
            "proxnpi",
            {"controller": "swap"},
            r"proxnpi.controller: got 'swap', allowed: refine, replace, none",
        ),
        ("proxnpi", {"dilate_mask": -1}, r"proxnpi.dilate_mask: got -1, allowed: 0 to 512"),
        ("proxnpi", {"cross_replace": 2.0}, r"proxnpi.cross_replace"),
        ("proxnpi", {"self_limit": "1024"}, r"proxnpi.self_limit: got '1024', allowed: scaled, released"),
        ("proxnpi", {"reweight": {"cup": 2.0}, "controller": "none"}, r"proxnpi.reweight"),
        ("proxnpi", {"source_prompt": "fixed"}, r"proxnpi.source_text: got '', allowed: a text with"),
        ("proxnpi", {"source_text": "a kitchen"}, r"proxnpi.source_text: got 'a kitchen'"),
        (
            "proxmasactrl",
            {"source_prompt": "blip"},
            r"proxmasactrl.source_prompt: got 'blip', allowed: empty",
        ),
        (
            "proxmasactrl",
            {"inject_cond": "both"},
            r"proxmasactrl.inject_cond: got 'both', allowed: src, joint",
        ),
        ("proxmasactrl", {"masa_step": -1}, r"proxmasactrl.masa_step: got -1, allowed: 0 or more"),
    ],
)
def test_wrong_settings_are_named(section: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        validated(GenerateConfig, {section: options})


def test_a_block_that_is_not_there_is_named(model: StableDiffusion) -> None:
    with pytest.raises(UserError, match=r"masa_layer: got 10, allowed: 0 to 4, the number of this UNet's"):
        make(ProxMasaCtrl, model, ProxMasaCtrlConfig())
