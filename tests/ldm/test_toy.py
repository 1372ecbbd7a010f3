"""The toy Stable Diffusion: its file, its latents, its start."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional

from egogen.errors import UserError
from egogen.layout import Layout
from egogen.toy.world import write_world
from ldm.architecture import LATENT_SCALE, build, infer
from ldm.checkpoint import load_parts
from ldm.reading import read
from ldm.toy.__main__ import SHAPE, encode, main, read_world, train_decoder
from ldm.toy.linear import LUMINANCE, pass_colours_through, pass_noise_through, standardize_latents


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world")
    write_world(root, 12, 1, size=32, workers=1)
    return root


def test_the_command_writes_a_published_file_once(world: Path, tmp_path: Path) -> None:
    out = tmp_path / "start" / "sd.ckpt"
    words = ["--data-root", str(world), "--out", str(out), "--resolution", "32"]
    main([*words, "--vae-steps", "3", "--text-steps", "3", "--unet-steps", "2"])
    state = read(out)["state_dict"]
    found = infer(state)
    assert found.unet.in_channels == 4
    assert found.unet.channels == SHAPE.unet.channels
    assert "betas" in state
    assert not any(name.startswith(("projection_", "model_ema")) for name in state)
    parts = load_parts(out)
    assert parts.conditioner is None
    assert parts.unet.config.in_channels == 8
    before = out.stat().st_mtime_ns
    main(words)
    assert out.stat().st_mtime_ns == before


@torch.no_grad()
def decoded(vae: AutoencoderKL, frames: Tensor) -> Tensor:
    """Frames encoded and decoded."""
    return vae.decode(vae.encode(frames).latent_dist.mode()).sample


def test_the_autoencoder_starts_as_averaging_and_its_decoder_learns(world: Path) -> None:
    torch.manual_seed(0)
    vae = build(SHAPE, conditioner=False).vae
    frames, texts = read_world(Layout(world, "ego4d"), 32)
    assert len(frames) == 2 * len(texts) == 24
    pass_colours_through(vae)
    # Closed form: the mean of each block of 2 x 2 pixels, repeated. Norms divide by nearly a constant.
    means = functional.interpolate(functional.avg_pool2d(frames, 2), scale_factor=2)
    torch.testing.assert_close(decoded(vae, frames), means, rtol=0, atol=0.05)
    with torch.no_grad():
        edges = vae.encode(frames).latent_dist.mean[:, 3]
    light = (frames * torch.tensor(LUMINANCE)[:, None, None]).sum(dim=1)
    torch.testing.assert_close(edges, 2 * (light[:, ::2, ::2] - light[:, 1::2, 1::2]), rtol=0, atol=0.05)
    untrained = float((decoded(vae, frames) - frames).square().mean())
    train_decoder(vae, frames, 40)
    assert float((decoded(vae, frames) - frames).square().mean()) < 0.8 * untrained


def test_standardized_latents_have_the_published_spread(world: Path) -> None:
    torch.manual_seed(0)
    vae = build(SHAPE, conditioner=False).vae
    frames, _ = read_world(Layout(world, "ego4d"), 32)
    pass_colours_through(vae)
    before = decoded(vae, frames)
    standardize_latents(vae, frames)
    # The two scalings undo each other, up to rounding.
    torch.testing.assert_close(decoded(vae, frames), before, rtol=0, atol=1e-4)
    latents = encode(vae, frames[::8])
    assert float(latents.std()) == pytest.approx(1 / LATENT_SCALE, rel=1e-2)
    assert latents.mean(dim=(0, 2, 3)).abs().max() < 1e-3 / LATENT_SCALE
    with torch.no_grad():
        assert vae.encode(frames[:1]).latent_dist.std.max() < 0.02 * latents.std()


def test_the_unet_starts_as_the_identity_on_noise() -> None:
    torch.manual_seed(0)
    unet = build(SHAPE, conditioner=False).unet
    pass_noise_through(unet)
    noise = torch.randn(2, 4, 16, 16)
    with torch.no_grad():
        found = unet(noise, torch.tensor([999, 500]), torch.zeros(2, 77, SHAPE.text.width)).sample
    # The last norm divides by the spread of noise and constants, which is known up to the sampling error.
    torch.testing.assert_close(found, noise, rtol=0, atol=0.02)


def test_an_empty_world_is_named(tmp_path: Path) -> None:
    write_world(tmp_path, 0, 1, size=32, workers=1)
    with pytest.raises(UserError, match="holds no conversations"):
        main(["--data-root", str(tmp_path), "--out", str(tmp_path / "sd.ckpt")])
