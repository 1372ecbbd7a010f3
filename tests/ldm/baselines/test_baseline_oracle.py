"""SDEdit, ProxNPI and ProxMasaCtrl against numbers recorded from their released code.

Steps from recorded latents: 1e-5 in 64 bits, 5e-5 in 32. Free runs: 2e-3 in 64 bits, since an untrained
network amplifies rounding a thousandfold in ten steps.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ldm.baselines.control import controlled
from ldm.baselines.pair_edit import PairEdit
from ldm.baselines.proximal import find_threshold
from ldm.baselines.proxmasactrl import ProxMasaCtrl
from ldm.baselines.proxnpi import ProxNPI
from ldm.baselines.sdedit import sdedit
from ldm.baselines.stable_diffusion import StableDiffusion
from ldm.baselines.token_maps import align, replacement, token_ids
from ldm.config.baselines import ProxMasaCtrlConfig, ProxNPIConfig, SDEditConfig
from ldm.diffusion.ddim import Grid
from ldm.networks.shapes import LATENT_SCALE
from ldm.networks.text import make_tokenizer
from tests.ldm.baselines.conftest import draw, image

NPI_RUNS = [
    "npi_empty", "l0_q075_inv", "l0_q06_plain", "l1_q09_rec", "l1_q06_inv", "refine_npi",
    "refine_l0_q075_inv", "replace_l0_q075_inv", "replace_reweight_l0_q07", "l0_fixed_negt", "l0_interp",
]  # fmt: skip
MASA_RUNS = ["masa", "proxmasa_l0_q06", "masa_joint_npi", "masa_layer16_nocontrol", "proxmasa_q075_layer13"]
STEPS = (0, 5, 9)  # on both sides of every limit in time that the runs have


def npi_settings(run: dict[str, Any]) -> ProxNPIConfig:
    reweight = run["equalizer"] or {"words": [], "values": []}
    return ProxNPIConfig(
        steps=10,
        guidance=run["guidance_scale"],
        prox=run["prox"] or "none",
        quantile=run["quantile"],
        npi_interp=run["npi_interp"],
        inversion_guidance=run["use_inversion_guidance"],
        reconstruction_guidance=run["use_reconstruction_guidance"],
        recon_lr=float(run["recon_lr"]),
        recon_t=run["recon_t"],
        dilate_mask=run["dilate_mask"],
        controller=run["controller"].replace("empty", "none"),
        cross_replace=run["cross_replace_steps"],
        self_replace=run["self_replace_steps"],
        self_limit="released",
        reweight=dict(zip(reweight["words"], reweight["values"], strict=True)),
    )


def masa_settings(run: dict[str, Any]) -> ProxMasaCtrlConfig:
    same = (
        "quantile", "npi", "npi_step", "prox_step", "masa_step", "masa_layer", "inject_uncond", "inject_cond",
        "query_intermediate",
    )  # fmt: skip
    return ProxMasaCtrlConfig(
        steps=10,
        prox=run["prox"] or "none",
        npi_interp=float(run["npi_interp"]),
        **{name: run[name] for name in same},
    )


def editor(model: StableDiffusion, spec: Any, recorded: Any, family: str, name: str) -> PairEdit[Any]:
    run = spec[family][name]
    kind: Any = ProxNPI if family == "proxnpi" else ProxMasaCtrl
    settings = npi_settings(run) if family == "proxnpi" else masa_settings(run)
    clean = torch.from_numpy(recorded("proxnpi")["z0"]).to(model.unet.dtype)
    return kind(model, clean, [spec["prompts"]["src"]], [spec["prompts"][run["target"]]], settings)


def path_of(recorded: Any, like: Tensor) -> Tensor:
    return torch.from_numpy(recorded("proxnpi")["x_star"])[:, None].to(like)


def pair(latents: np.ndarray, like: Tensor) -> Tensor:
    return torch.from_numpy(latents)[:, None].to(like)


def difference(found: Tensor, expected: np.ndarray) -> float:
    return float((found.double() - torch.from_numpy(expected).double().reshape(found.shape)).abs().max())


def test_weights_and_token_ids(single: StableDiffusion, spec: Any) -> None:
    for name, values in spec["weight_check_first3"].items():
        part, own = name.split(".", 1)
        state = getattr(single, part).state_dict()
        found = state[own] if own in state else state[own.removeprefix("text_model.")]
        np.testing.assert_allclose(found.flatten()[:3], values, rtol=1e-6)
    for name, ids in spec["token_ids"].items():
        assert token_ids(make_tokenizer(), spec["prompts"][name]) == ids


def test_token_maps(spec: Any, recorded: Any) -> None:
    tokenizer, prompts, found = make_tokenizer(), spec["prompts"], recorded("proxnpi")
    for name in ("uneq", "eq"):
        origin = align(token_ids(tokenizer, prompts["src"]), token_ids(tokenizer, prompts[name]))
        assert np.array_equal(origin, found[f"refine.{name}.mapper"][0])
        assert np.array_equal((origin >= 0).float(), found[f"refine.{name}.alphas"][0])
    matrix = replacement(tokenizer, prompts["src"], prompts["eq"])
    rows, columns = found["replace.eq.mapper.rows_cols"]
    expected = np.zeros((77, 77), np.float32)
    expected[rows, columns] = found["replace.eq.mapper.values"]
    assert np.array_equal(matrix, expected)


@torch.no_grad()
def test_encoding_and_inversion(double: StableDiffusion, spec: Any, recorded: Any) -> None:
    clean, _ = double.posterior(image(recorded))
    assert difference(clean, recorded("proxnpi")["z0"]) < 1e-6
    for family, name in (("proxnpi", "l0_q075_inv"), ("proxmasa", "masa")):
        path = editor(double, spec, recorded, family, name).invert()
        assert difference(path[:, 0], recorded("proxnpi")["x_star"]) < 1e-5
    assert difference(path[-1], recorded("proxmasa")["masa.start"]) < 1e-5


def starts(recorded: Any, family: str, name: str, path: Tensor) -> dict[int, Tensor]:
    """Recorded latents before the tested steps, source and target."""
    after = recorded(family)[f"{name}.latents"]
    found = {step: pair(after[step - 1], path) for step in STEPS if step}
    return {0: torch.stack([path[-1], path[-1]]), **found}


@torch.no_grad()
def check_proxnpi(model: StableDiffusion, spec: Any, recorded: Any, name: str, limit: float) -> None:
    edit, run = editor(model, spec, recorded, "proxnpi", name), spec["proxnpi"][name]
    assert isinstance(edit, ProxNPI)
    path = path_of(recorded, edit.clean)
    with controlled(model.unet, edit.control):
        for step, before in starts(recorded, "proxnpi", name, path).items():
            null, text = edit.predict(step, before, edit.negative)
            after = edit.guided_step(step, before, null, text, path)
            assert difference(after, recorded("proxnpi")[f"{name}.latents"][step]) < limit
            if run["prox"]:
                found = find_threshold(text - null, run["quantile"])
                np.testing.assert_allclose(found.item(), run["threshold"][step], rtol=1e-4)
                timestep = edit.grid.timesteps[edit.level(step)]
                _, mask = edit.guide(null, text, timestep)
                assert mask is None or timestep in run["mask_timesteps"]
                if mask is not None:
                    expected = recorded("proxnpi")[f"{name}.edit_mask"][run["mask_timesteps"].index(timestep)]
                    assert np.array_equal(mask[:, 0], expected)


@torch.no_grad()
def check_proxmasactrl(model: StableDiffusion, spec: Any, recorded: Any, name: str, limit: float) -> None:
    edit = editor(model, spec, recorded, "proxmasa", name)
    path = path_of(recorded, edit.clean)
    with controlled(model.unet, edit.control):
        for step, before in starts(recorded, "proxmasa", name, path).items():
            after = edit.step(step, before, path)
            assert difference(after, recorded("proxmasa")[f"{name}.latents"][step]) < limit


@pytest.mark.parametrize("name", NPI_RUNS)
def test_proxnpi_step_by_step(double: StableDiffusion, spec: Any, recorded: Any, name: str) -> None:
    check_proxnpi(double, spec, recorded, name, 1e-5)


@pytest.mark.parametrize("name", MASA_RUNS)
def test_proxmasactrl_step_by_step(double: StableDiffusion, spec: Any, recorded: Any, name: str) -> None:
    check_proxmasactrl(double, spec, recorded, name, 1e-5)


def test_steps_in_32_bits(single: StableDiffusion, spec: Any, recorded: Any) -> None:
    check_proxnpi(single, spec, recorded, "replace_reweight_l0_q07", 5e-5)
    check_proxmasactrl(single, spec, recorded, "proxmasa_l0_q06", 5e-5)


@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("proxnpi", "l0_q075_inv"), ("proxnpi", "l1_q09_rec"), ("proxnpi", "replace_reweight_l0_q07"),
        ("proxmasa", "proxmasa_l0_q06"), ("proxmasa", "masa_joint_npi"),
    ],
)  # fmt: skip
def test_free_runs(double: StableDiffusion, spec: Any, recorded: Any, family: str, name: str) -> None:
    final = editor(double, spec, recorded, family, name).edit()
    assert difference(final[:, 0], recorded(family)[f"{name}.latents"][-1]) < 2e-3


@pytest.mark.parametrize("case", [f"case{index:02d}" for index in range(17)])
def test_steps_from_given_predictions(single: StableDiffusion, spec: Any, recorded: Any, case: str) -> None:
    run, given = spec["prox_step"][case], recorded("prox_step")
    settings = ProxNPIConfig(
        steps=10, guidance=run["guidance"], prox=run["prox"] or "none", quantile=run["quantile"],
        inversion_guidance=run["inv"], reconstruction_guidance=run["rec"], recon_lr=float(run["recon_lr"]),
        recon_t=run["recon_t"], dilate_mask=run["dilate"], controller="none",
    )  # fmt: skip
    clean = torch.from_numpy(given["image_enc"])
    edit = ProxNPI(single, clean, [""], [""], settings)
    null, text, latents = (pair(given[name], clean) for name in ("eps_neg", "eps_text", "latents"))
    path = torch.from_numpy(given["x_stars"])[:, None]
    noise, mask = edit.guide(null, text, run["t"])
    assert difference(noise[:, 0], given[f"{case}.eps"]) < 2e-5
    assert (mask is not None) == (f"{case}.edit_mask" in given)
    if mask is not None:
        assert np.array_equal(mask[:, 0], given[f"{case}.edit_mask"])
    after = edit.guided_step(run["i"], latents, null, text, path)
    assert difference(after[:, 0], given[f"{case}.out"]) < 2e-5


@torch.no_grad()
@pytest.mark.parametrize("name", ["s030", "s075", "s075_w1", "s000", "s100_steps7"])
def test_sdedit(single: StableDiffusion, spec: Any, recorded: Any, name: str) -> None:
    run, given = spec["sdedit"][name], recorded("sdedit")
    settings = SDEditConfig(strength=run["strength"], steps=run["steps"], guidance=run["scale"])
    assert settings.repainted == run["t_enc"]
    assert Grid(run["steps"]).timesteps[settings.noised_level] == run["noise_timestep"]
    mean, std = single.posterior(image(recorded).float())
    assert difference(mean, LATENT_SCALE * given["posterior_mean"]) < 1e-4
    assert np.array_equal(given["posterior_noise"], draw("sdedit.posterior_noise", mean.shape))
    source = mean + std * torch.from_numpy(given["posterior_noise"])
    noise = torch.from_numpy(given["noise"])
    final = sdedit(single, source, [run["prompt"]], noise, settings)
    assert difference(final, given[f"{name}.final"]) < 5e-4
    if name == "s075":
        assert difference(single.decode(final), given["s075.image_float"]) < 5e-4


@pytest.mark.parametrize("strength", ["s030", "s075", "s100"])
def test_sdedit_as_diffusers_has_it(single: StableDiffusion, spec: Any, recorded: Any, strength: str) -> None:
    run, given = spec["sdedit"][strength], recorded("sdedit")
    settings = SDEditConfig(strength=run["strength"], steps=10, guidance=5.0, noise_level="matched")
    source = LATENT_SCALE * torch.from_numpy(
        given["posterior_mean"] + given["posterior_std"] * given["posterior_noise"]
    )
    final = sdedit(single, source, [run["prompt"]], torch.from_numpy(given["noise"]), settings)
    assert difference(final, given[f"diffusers_{strength}.final"]) < 5e-4
