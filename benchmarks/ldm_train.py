"""How fast the diffusion model trains: published settings against ours, on the same weights, in one run.

    python benchmarks/ldm_train.py                  # toy size, on a CPU: a minute or two
    python benchmarks/ldm_train.py --size sd15      # the true sizes, random weights, on a GPU

Published: 32-bit, eager, activations computed twice, VAE and CLIP at every step, plain AdamW. Ours adds one
setting at a time, so that each line says what it is worth. Data are made up and in memory. The table of costs
names what takes most of the time of a step, as published and as on the last line.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from measuring import OnDevice, SpeedTable, clock, largest_costs, made_up, networks_of, rate, run
from torch import Tensor

from egogen.cli import flag
from ldm.config.sections import ModelConfig, OptimizerConfig, TrainConfig, TrainerConfig
from ldm.module import LatentDiffusion
from ldm.networks.architecture import build
from ldm.networks.shapes import Architecture
from ldm.training.adamw import make_optimizer

# Work of one trained pair with cached latents, and what encoding it adds, at the true sizes (TFLOP).
UNET_WORK, ENCODE_WORK = 0.59, 0.56
# From published to ours: each line adds one change to those above it. The first three are for a CPU as well.
CHANGES = {
    "published: fp32, checkpointing, VAE and CLIP at every step": "",
    "+ cached latents and texts": "cached",
    "+ no checkpointing": "uncheckpointed",
    "+ bf16": "bf16",
    "+ channels_last": "channels_last",
    "+ fused AdamW": "fused",
    "+ torch.compile": "compile",
    "+ large batch": "large_batch",
}
ON_A_CPU = 3


@dataclass(frozen=True)
class TrainSpeed(OnDevice):
    """The flags."""

    size: str = flag("of the networks", choices=["toy", "sd15"], default="toy")
    batch: int = flag("pairs at a time [toy 12, sd15 32]", type=int, default=0)
    large_batch: int = flag("the last line's", type=int, default=64)
    seconds: float = flag("time for each line", type=float, default=10.0)


def make_batch(shape: Architecture, batch: int, side: int, cached: bool, device: str) -> dict[str, object]:
    """Made-up pairs: frames, or what the cache holds of them."""
    made, latent = made_up(shape, batch, side, device), side // shape.vae.factor
    shared = {
        "item": [str(index) for index in range(batch)], "prompt": made.prompts,
        "vllm_image": made.image_features, "vllm_text": made.text_features,
    }  # fmt: skip
    if not cached:
        return shared | {"source": made.source, "target": made.source.flip(0)}
    return shared | {
        "source_latent": torch.randn(batch, 4, latent, latent, device=device),
        "target_moments": torch.rand(batch, 8, latent, latent, device=device),
        "text": torch.randn(batch, 77, shape.text.width, device=device),
    }


def make_step(
    shape: Architecture, changes: set[str], batch_size: int, side: int, options: TrainSpeed
) -> Callable[[], Tensor]:
    """A training step by the settings of one line."""
    device = options.device
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")  # TF32, as torch 1.11 did by default
    config = TrainConfig(
        model=ModelConfig(
            architecture=shape, gradient_checkpointing="uncheckpointed" not in changes,
            channels_last="channels_last" in changes, compile="compile" in changes,
        ),
        optimizer=OptimizerConfig(fused="fused" in changes), trainer=TrainerConfig(max_steps=1),
    )  # fmt: skip
    with torch.device(device):
        module = LatentDiffusion(build(shape), config).to(device)
    optimizer = make_optimizer(module.trained().values(), config.optimizer)
    batch = make_batch(shape, batch_size, side, "cached" in changes, device)

    def step() -> Tensor:
        with torch.autocast(device.split(":")[0], torch.bfloat16, enabled="bf16" in changes):
            loss = module.loss(batch).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        module.ema.update(module.trained())
        return loss

    return step


def measure(options: TrainSpeed, _folder: Path) -> dict[str, SpeedTable]:
    """Measures each line."""
    shape, side = networks_of(options.size)
    batch = options.batch or (12 if options.size == "toy" else 32)
    print(f"{options.size}, {options.machine}, torch {torch.__version__}")
    table, changes, costs = SpeedTable("pairs_per_second", width=60), set[str](), SpeedTable()
    lines = list(CHANGES.items())[: None if options.on_gpu else ON_A_CPU]
    if options.large_batch <= batch:
        lines = [line for line in lines if line[1] != "large_batch"]
    for name, change in lines:
        changes.add(change)
        size = options.large_batch if change == "large_batch" else batch
        step = make_step(shape, changes, size, side, options)
        found = clock(
            partial(rate, step, options.seconds, warm=3, wait=5 if options.on_gpu else 1), options.device
        )
        pairs = size * found.result
        work = pairs * (UNET_WORK + (0 if "cached" in changes else ENCODE_WORK))
        table.add(
            setting=name, batch=size, pairs_per_second=pairs, peak_memory_gib=found.gib,
            share_of_peak=options.share(work, "bf16" if options.on_gpu else "float32")
            if options.size == "sd15" else None,
        )  # fmt: skip
        if name in (lines[0][0], lines[-1][0]):
            costs += largest_costs(f"a training step, {name}", step, options.device)
        del step  # with its networks, before the next are made
    return {"lines": table, "costs": costs}


if __name__ == "__main__":
    run(measure, TrainSpeed, __doc__)
