"""How fast the diffusion model trains: published settings against ours, on the same weights, in one run.

    python benchmarks/ldm_train.py                  # toy size, on a CPU: a minute or two
    python benchmarks/ldm_train.py --size sd15      # the true sizes, random weights, on a GPU

Published: 32-bit, eager, activations computed twice, VAE and CLIP at every step, plain AdamW. Ours adds one
setting at a time, so that each line says what it is worth. Data are made up and in memory.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from egogen.files import write_json
from ldm.config.merge import load_config
from ldm.config.sections import ModelConfig, OptimizerConfig, TrainConfig, TrainerConfig
from ldm.module import LatentDiffusion
from ldm.networks.architecture import Architecture, build
from ldm.training.adamw import make_optimizer

# Work of one trained pair with cached latents, and what encoding it adds, at the true sizes (TFLOP).
UNET_WORK, ENCODE_WORK = 0.59, 0.56
# Dense bfloat16 products a second that a GPU is sold with (TFLOP), by the vendor's data sheet.
PEAK = {"H200": 989.0, "H100": 989.0, "A100": 312.0, "L40": 181.0, "4090": 165.0}
TOY_CONFIG = Path(__file__).parents[1] / "configs" / "train_toy.yaml"


@dataclass
class Setting:
    """One line of the table."""

    name: str
    checkpointing: bool = True
    cached: bool = False
    bf16: bool = False
    channels_last: bool = False
    fused: bool = False
    compile: bool = False
    batch: int = 0  # 0: the command's


def settings(device: str, batch: int, large: int) -> list[Setting]:
    """From published to ours, one change a line."""
    lines = [Setting("published: fp32, checkpointing, VAE and CLIP at every step", batch=batch)]

    def add(name: str, **change: Any) -> None:  # noqa: ANN401 - fields of Setting
        lines.append(replace(lines[-1], name=name, **change))

    add("+ cached latents and texts", cached=True)
    add("+ no checkpointing", checkpointing=False)
    if device != "cpu":
        add("+ bf16", bf16=True)
        add("+ channels_last", channels_last=True)
        add("+ fused AdamW", fused=True)
        add("+ torch.compile", compile=True)
        if large > batch:
            add(f"+ batch {large}", batch=large)
    return lines


def make_batch(shape: Architecture, batch: int, side: int, cached: bool, device: str) -> dict[str, Any]:
    """Made-up pairs: frames, or what the cache holds of them."""
    latent = side // shape.vae.factor
    made: dict[str, Any] = {
        "item": [str(index) for index in range(batch)],
        "prompt": ["the left hand opens the box"] * batch,
        "vllm_image": torch.randn(batch, 256, shape.llm_width, device=device),
        "vllm_text": torch.randn(batch, 77, shape.llm_width, device=device),
    }
    if cached:
        made |= {
            "source_latent": torch.randn(batch, 4, latent, latent, device=device),
            "target_moments": torch.rand(batch, 8, latent, latent, device=device),
            "text": torch.randn(batch, 77, shape.text.width, device=device),
        }
    else:
        for name in ("source", "target"):
            made[name] = torch.rand(batch, 3, side, side, device=device) * 2 - 1
    return made


def measure(
    shape: Architecture, setting: Setting, side: int, device: str, seconds: float
) -> dict[str, float]:
    """Pairs a second and the highest memory of one setting."""
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")  # TF32, as torch 1.11 did by default
    config = TrainConfig(
        model=ModelConfig(
            architecture=shape,
            gradient_checkpointing=setting.checkpointing,
            channels_last=setting.channels_last,
            compile=setting.compile,
        ),
        optimizer=OptimizerConfig(fused=setting.fused),
        trainer=TrainerConfig(max_steps=1),
    )
    with torch.device(device):
        module = LatentDiffusion(build(shape), config).to(device)
    optimizer = make_optimizer(module.trained().values(), config.optimizer)
    batch = make_batch(shape, setting.batch, side, setting.cached, device)

    def step() -> Tensor:
        with torch.autocast(device.split(":")[0], torch.bfloat16, enabled=setting.bf16):
            loss = module.loss(batch).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        module.ema.update(module.trained())
        return loss

    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    rate = setting.batch * repeat(step, device, seconds)
    found = {"pairs_per_second": rate}
    if device != "cpu":
        found["peak_memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
    return found


def repeat(step: Callable[[], Tensor], device: str, seconds: float) -> float:
    """Steps a second, after a few that do not count; the last result is waited for."""
    for _ in range(3):
        step().item()
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        loss = step()
        count += 1
        if device == "cpu" or count % 5 == 0:
            loss.item()
    loss.item()
    return count / (time.perf_counter() - began)


def peak_of(device: str) -> float | None:
    """Products a second of this GPU in TFLOP, where its name is known."""
    if device == "cpu":
        return None
    name = torch.cuda.get_device_name()
    return next((value for key, value in PEAK.items() if key in name), None)


def main() -> None:
    """Measures each setting, prints a table, writes JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=["toy", "sd15"], default="toy")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch", type=int, default=0, help="pairs at a time [toy 12, sd15 32]")
    parser.add_argument("--large-batch", type=int, default=64, help="the last line's")
    parser.add_argument("--seconds", type=float, default=10.0, help="time for each line")
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    toy = args.size == "toy"
    shape, side, batch = Architecture(), 256, args.batch or 32
    if toy:
        config = load_config(TrainConfig, [TOY_CONFIG])
        shape, side = config.model.shape, config.data.resolution
        batch = args.batch or config.data.batch_size
    peak, results = peak_of(args.device), []
    print(f"{args.size}, {args.device}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    print(f"{'setting':64} {'pairs/s':>9} {'ratio':>6} {'GiB':>6} {'of peak':>8}")
    for setting in settings(args.device, batch, args.large_batch):
        found = measure(shape, setting, side, args.device, args.seconds)
        results.append({**asdict(setting), **found})
        ratio = found["pairs_per_second"] / results[0]["pairs_per_second"]
        work = UNET_WORK + (0 if setting.cached else ENCODE_WORK)
        share = f"{found['pairs_per_second'] * work / peak:8.1%}" if peak and not toy else f"{'-':>8}"
        memory = f"{found['peak_memory_gib']:6.1f}" if "peak_memory_gib" in found else f"{'-':>6}"
        print(f"{setting.name:64} {found['pairs_per_second']:9.2f} {ratio:6.2f} {memory} {share}", flush=True)
    if args.json:
        write_json(args.json, results)
        print(json.dumps({"written": str(args.json)}))


if __name__ == "__main__":
    main()
