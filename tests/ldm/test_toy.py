"""The toy Stable Diffusion: its file, its latents, its start."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from egogen.errors import UserError
from egogen.layout import Layout
from egogen.toy.world import write_world
from ldm.architecture import LATENT_SCALE, build, infer
from ldm.checkpoint import load_parts, read
from ldm.toy import SHAPE, main, pass_noise_through, read_world, rescale_latents, train_vae


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world")
    write_world(root, 12, 1, size=32, workers=1)
    return root


def test_the_command_writes_a_published_file_once(world: Path, tmp_path: Path) -> None:
    out = tmp_path / "start" / "sd.ckpt"
    words = ["--data-root", str(world), "--out", str(out), "--resolution", "32"]
    main([*words, "--vae-steps", "3", "--unet-steps", "2"])
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


def test_the_autoencoder_learns_and_its_latents_have_the_published_spread(world: Path) -> None:
    torch.manual_seed(0)
    vae = build(SHAPE, conditioner=False).vae
    frames, texts = read_world(Layout(world, "ego4d"), 32)
    assert len(frames) == 2 * len(texts) == 24

    @torch.no_grad()
    def error() -> float:
        decoded = vae.decode(vae.encode(frames).latent_dist.mode()).sample
        return float((decoded - frames).square().mean())

    untrained = error()
    train_vae(vae, frames, 40)
    trained = error()
    assert trained < 0.5 * untrained
    rescale_latents(vae, frames)
    # The two scalings undo each other, up to rounding.
    assert error() == pytest.approx(trained, rel=1e-3)
    with torch.no_grad():
        spread = vae.encode(frames[::8]).latent_dist.mean.std()
    assert float(spread) == pytest.approx(1 / LATENT_SCALE, rel=1e-3)


def test_the_unet_starts_as_the_identity_on_noise() -> None:
    torch.manual_seed(0)
    unet = build(SHAPE, conditioner=False).unet
    pass_noise_through(unet)
    noise = torch.randn(2, 4, 16, 16)
    with torch.no_grad():
        found = unet(noise, torch.tensor([999, 500]), torch.zeros(2, 77, SHAPE.text.width)).sample
    # Group norm rescales by the noise's own spread, which is 1 but for the sampling error of 16 x 16 cells.
    torch.testing.assert_close(found, noise, rtol=0, atol=0.4)
    correlation = torch.corrcoef(torch.stack([found.flatten(), noise.flatten()]))[0, 1]
    assert float(correlation) > 0.99


def test_an_empty_world_is_named(tmp_path: Path) -> None:
    write_world(tmp_path, 0, 1, size=32, workers=1)
    with pytest.raises(UserError, match="holds no conversations"):
        main(["--data-root", str(tmp_path), "--out", str(tmp_path / "sd.ckpt")])
