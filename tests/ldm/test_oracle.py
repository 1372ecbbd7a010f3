"""The networks and the sampler against numbers recorded from the published code (tests/oracle/ldm)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ldm.checkpoints.source import load_parts
from ldm.conditioner import embed
from ldm.diffusion.schedule import training_schedule
from ldm.networks.architecture import Parts
from ldm.networks.shapes import Architecture
from ldm.networks.text import make_tokenizer
from ldm.pipeline import LegoPipeline
from tests.ldm.conftest import normal

FORWARD = {"atol": 1e-4, "rtol": 0}


@pytest.fixture(scope="module")
def parts(oracle_ckpt: Path, oracle_shape: Architecture) -> Parts:
    loaded = load_parts(oracle_ckpt, oracle_shape, use_ema=False)
    for module in loaded:
        module.eval()
    return loaded


@pytest.fixture(scope="module")
def pipeline(oracle_ckpt: Path, oracle_shape: Architecture) -> LegoPipeline:
    return LegoPipeline.from_single_file(oracle_ckpt, oracle_shape)


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@torch.no_grad()
def test_unet_plain_and_ema(parts: Parts, pipeline: LegoPipeline, outputs: Any) -> None:
    shape = outputs["unet.eps"].shape
    x = torch.cat([normal("unet.x", shape), normal("unet.c", shape)], dim=1)
    t, context = torch.tensor([3, 871]), normal("unet.ctx", [2, 10, 768])
    np.testing.assert_allclose(parts.unet(x, t, context).sample, outputs["unet.eps"], **FORWARD)
    np.testing.assert_allclose(pipeline.unet(x, t, context).sample, outputs["unet.eps_ema"], **FORWARD)


@torch.no_grad()
def test_vae(parts: Parts, outputs: Any, scalars: Any) -> None:
    image = normal("vae.image", [2, 3, 64, scalars["width"]]).tanh()
    posterior = parts.vae.encode(image).latent_dist
    np.testing.assert_allclose(posterior.mean, outputs["vae.mean"], **FORWARD)
    np.testing.assert_allclose(posterior.logvar, outputs["vae.logvar"], **FORWARD)
    latent = normal("vae.z", [1, 4, 8, scalars["width"] // 8])
    np.testing.assert_allclose(parts.vae.decode(latent / 0.18215).sample, outputs["vae.decoded"], **FORWARD)


@torch.no_grad()
def test_text(parts: Parts, outputs: Any, scalars: Any) -> None:
    found = embed(parts.text_encoder, make_tokenizer(), scalars["prompts"])
    np.testing.assert_allclose(found[:, ::4, ::8], outputs["text.embed"], **FORWARD)


@torch.no_grad()
def test_conditioner(parts: Parts, outputs: Any) -> None:
    text = normal("feat.text", [2, 77, 5120])
    text[1, 40:] = 0
    assert parts.conditioner is not None
    tokens = parts.conditioner(normal("feat.image", [2, 256, 5120]), text)
    assert tokens.shape == (2, 333, 768)
    np.testing.assert_allclose(tokens[:, :256:16], outputs["cond.image"], **FORWARD)
    np.testing.assert_allclose(tokens[:, 256::7], outputs["cond.text"], **FORWARD)


@pytest.mark.parametrize("kind", ["lego", "ip2p"])
def test_sampler(pipeline: LegoPipeline, outputs: Any, scalars: Any, kind: str) -> None:
    steps, width = scalars["steps"], scalars["width"]
    features = {}
    if kind == "lego":
        text = normal("sample.feat.text", [1, 77, 5120])
        text[:, 33:] = 0
        features = {
            "vllm_image_features": normal("sample.feat.image", [1, 256, 5120]),
            "vllm_text_features": text,
        }
    arguments = {
        "image": normal("sample.image", [1, 3, 64, width]).tanh(),
        "prompt": scalars["sample_prompt"],
        "num_inference_steps": steps,
        "noise": normal("sample.noise", [steps + 1, 1, 4, 8, width // 8]),
        **features,
    }
    with pipeline.quiet():
        latents = pipeline(**arguments, output_type="latent").images
        image = pipeline(**arguments, output_type="pt").images
    np.testing.assert_allclose(pipeline.scheduler.sigmas, outputs["sampler.sigmas"], rtol=1e-5)
    assert relative(latents.numpy(), outputs[f"sampler.{kind}.latents"]) < 1e-3
    assert relative(image.numpy(), outputs[f"sampler.{kind}.image"]) < 1e-3


def test_schedule_buffers() -> None:
    betas = training_schedule()["betas"]
    assert betas[0] == pytest.approx(0.00085)
    assert betas[-1] == pytest.approx(0.012)
