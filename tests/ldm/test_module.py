"""The training loss and its gradients against the recorded ones; the checkpoint format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ldm.checkpoints.published_names import published_names
from ldm.checkpoints.safe_reading import read
from ldm.checkpoints.source import load_parts
from ldm.checkpoints.writing import published_state, write
from ldm.config.sections import ModelConfig, TrainConfig
from ldm.guidance import Drop
from ldm.module import LatentDiffusion
from ldm.networks.shapes import Architecture
from tests.ldm.conftest import normal


@pytest.fixture(scope="module")
def module(oracle_ckpt: Path, oracle_shape: Architecture) -> LatentDiffusion:
    parts = load_parts(oracle_ckpt, oracle_shape, use_ema=False)
    config = TrainConfig(model=ModelConfig(architecture=oracle_shape, gradient_checkpointing=False))
    return LatentDiffusion(parts, config).eval()


def test_loss_and_gradients(module: LatentDiffusion, scalars: Any) -> None:
    width = scalars["width"]
    latent = [4, 4, 8, width // 8]
    batch = {
        "prompt": scalars["train_prompts"],
        "source": normal("train.source", [4, 3, 64, width]).tanh(),
        "target_latent": normal("train.z0", latent),
        "vllm_image": normal("train.feat.image", [4, 256, 5120]),
        "vllm_text": normal("train.feat.text", [4, 77, 5120]),
    }
    drop = Drop(
        text=torch.tensor(scalars["drop_text"], dtype=torch.bool),
        image=~torch.tensor(scalars["keep_image"], dtype=torch.bool),
    )
    t, noise = torch.tensor(scalars["train_t"]), normal("train.noise", latent)
    losses = module.loss(batch, t=t, noise=noise, drop=drop)
    assert losses.shape == (4,)
    assert losses.mean().item() == pytest.approx(scalars["loss"], rel=1e-4)
    losses.mean().backward()
    names = published_names(module.parts, module.shape)
    norms = {names[own]: value.grad.norm().item() for own, value in module.trained().items()}
    for name, expected in scalars["grad_norms"].items():
        assert norms[name] == pytest.approx(expected, rel=1e-3), name


def test_only_unet_and_conditioner_train(module: LatentDiffusion) -> None:
    assert {name.split(".")[0] for name in module.trained()} == {"unet", "conditioner"}
    assert not any(value.requires_grad for value in module.vae.parameters())
    assert not any(value.requires_grad for value in module.text_encoder.parameters())
    optimizer = module.configure_optimizers()["optimizer"]
    held = sum(value.numel() for group in optimizer.param_groups for value in group["params"])
    assert held == sum(value.numel() for value in module.trained().values())


def test_published_files_are_written_as_they_are_read(
    oracle_ckpt: Path, oracle_shape: Architecture, tmp_path: Path
) -> None:
    before = read(oracle_ckpt)["state_dict"]
    write(
        tmp_path / "again.ckpt", published_state(load_parts(oracle_ckpt, oracle_shape, False), oracle_shape)
    )
    after = read(tmp_path / "again.ckpt")["state_dict"]
    assert set(after) == {name for name in before if not name.startswith("model_ema.")}
    for name, value in after.items():
        torch.testing.assert_close(value, before[name], rtol=1e-6, atol=1e-7, msg=name)
