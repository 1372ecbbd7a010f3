"""How fast frames are drawn: one at a time against batches, on the same weights and noise, in one run.

    python benchmarks/ldm_sample.py                 # toy size, on a CPU: a minute or two
    python benchmarks/ldm_sample.py --size tiny     # the networks of tests/oracle/ldm, 64 pixels
    python benchmarks/ldm_sample.py --size sd15     # the true sizes, random weights, on a GPU
    python benchmarks/ldm_sample.py --ckpt FILE --config YAML --val 64   # and how good few steps are

Published: one frame at a time, 32-bit (TF32 products), the context's keys and values computed at every step.
The table of quality needs a trained checkpoint: how far the frames of each scheduler and number of steps are
from those of 200 DDIM steps from the same start noise, and from the true targets (PSNR, dB).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from egogen.files import write_json
from ldm import pipeline as pipeline_module
from ldm.checkpoints.source import load_parts
from ldm.config.merge import load_config
from ldm.config.sections import GenerateConfig, TrainConfig
from ldm.data.pairs import EgoGenPairs, SplitFiles, stack
from ldm.diffusion.sampler import make_scheduler
from ldm.networks.architecture import Architecture, TextShape, UNetShape, VAEShape, build
from ldm.networks.attention import is_plain
from ldm.pipeline import LegoPipeline

# Work of one drawn frame at 100 steps at the true sizes (TFLOP).
WORK_100_STEPS = 59.0
PEAK = {"H200": 989.0, "H100": 989.0, "A100": 312.0, "L40": 181.0, "4090": 165.0}
TOY_CONFIG = Path(__file__).parents[1] / "configs" / "train_toy.yaml"
BATCH, FIXED, LAYOUT = "+ batches", "+ keys and values once", "+ channels_last"
HALF, COMPILE = "+ bf16 UNet", "+ torch.compile"
FAST = [("euler_ancestral", 50), ("dpmpp_2m", 50), ("dpmpp_2m", 25), ("dpmpp_2m", 15), ("unipc", 25),
        ("unipc", 15), ("unipc", 10), ("ddim", 50), ("ddim", 25)]  # fmt: skip


def toy_shape() -> tuple[Architecture, int]:
    """Architecture and resolution of the toy world."""
    config = load_config(TrainConfig, [TOY_CONFIG])
    return config.model.shape, config.data.resolution


def tiny_shape() -> tuple[Architecture, int]:
    """Architecture and resolution of the recorded numbers."""
    unet = UNetShape([32, 64, 128, 128], [True, True, True, False], 1, 4)
    return Architecture(unet, VAEShape([32, 64, 128, 128], 1), TextShape(768, 2, 12, 256)), 64


def inputs(shape: Architecture, batch: int, side: int, device: str) -> dict[str, Any]:
    """Made-up photos, texts and features."""
    generator = torch.Generator().manual_seed(0)
    return {
        "image": torch.rand(batch, 3, side, side, generator=generator).to(device) * 2 - 1,
        "prompt": ["the left hand opens the box"] * batch,
        "vllm_image_features": torch.randn(batch, 256, shape.llm_width, generator=generator).to(device),
        "vllm_text_features": torch.randn(batch, 77, shape.llm_width, generator=generator).to(device),
        "generator": [torch.Generator().manual_seed(index) for index in range(batch)],
        "output_type": "pt",
    }


def rate(call: Callable[[], Tensor], batch: int, seconds: float, warm: bool = True) -> float:
    """Frames a second."""
    if warm:
        call().sum().item()
    began, count = time.perf_counter(), 0
    while count == 0 or time.perf_counter() - began < seconds:
        call().sum().item()
        count += batch
    return count / (time.perf_counter() - began)


def speed(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Measures the published way and ours."""
    shape, side = {"toy": toy_shape, "tiny": tiny_shape, "sd15": lambda: (Architecture(), 256)}[args.size]()
    torch.manual_seed(0)
    with torch.device(args.device):
        parts = build(shape)
    torch.set_float32_matmul_precision("high")
    pipeline = LegoPipeline.from_parts(parts).to(args.device)
    pipeline.set_progress_bar_config(disable=True)
    on_gpu = args.device != "cpu"
    lines = ["published: batch 1, 32-bit, keys and values at every step", BATCH, FIXED, LAYOUT]
    if on_gpu:
        lines += [HALF, COMPILE]
    peak = next((v for k, v in PEAK.items() if on_gpu and k in torch.cuda.get_device_name()), None)
    print(f"{args.size}, {args.device}, {args.steps} steps, torch {torch.__version__}")
    print(f"{'setting':64} {'frames/s':>9} {'ratio':>6} {'GiB':>6} {'of peak':>8}")
    results: list[dict[str, Any]] = []
    batch = 1
    pipeline_module.is_plain = lambda _: False
    for name in lines:
        batch = args.batch if name == BATCH else batch
        change(pipeline, name)
        given = inputs(shape, batch, side, args.device)
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        found = rate(
            lambda given=given: pipeline(**given, num_inference_steps=args.steps).images, batch, args.seconds
        )
        entry: dict[str, Any] = {"setting": name, "batch": batch, "frames_per_second": found}
        if on_gpu:
            entry["peak_memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
        if peak and args.size == "sd15":
            entry["share_of_peak"] = found * WORK_100_STEPS * args.steps / 100 / peak
        results.append(entry)
        ratio = found / results[0]["frames_per_second"]
        memory = f"{entry['peak_memory_gib']:.1f}" if on_gpu else "-"
        share = f"{entry['share_of_peak']:.1%}" if "share_of_peak" in entry else "-"
        print(f"{name:64} {found:9.3f} {ratio:6.2f} {memory:>6} {share:>8}", flush=True)
    return results


def change(pipeline: LegoPipeline, name: str) -> None:
    """Makes one line's change."""
    if name == FIXED:
        pipeline_module.is_plain = is_plain
    elif name == LAYOUT:
        pipeline.unet.to(memory_format=torch.channels_last)
    elif name == HALF:
        pipeline.unet.to(torch.bfloat16)
    elif name == COMPILE:
        pipeline.unet.compile()


def quality(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Measures how far few steps are from many, on a trained checkpoint's val split."""
    config = load_config(GenerateConfig, [args.config], [])
    parts = load_parts(args.ckpt, config.model.shape, conditioner=config.model.vllm_features)
    pipeline = LegoPipeline.from_parts(parts).to(args.device)
    pipeline.set_progress_bar_config(disable=True)
    width = config.model.shape.llm_width if config.model.vllm_features else None
    pairs = EgoGenPairs([SplitFiles(config.data, "val", width, config.features.store)])
    samples = [pairs[index] for index in range(min(args.val, len(pairs)))]
    stacked = stack(samples, pipeline.device, pairs.visions)
    side = config.data.resolution // config.model.shape.vae.factor
    latents = torch.randn(len(samples), 4, side, side, generator=torch.Generator().manual_seed(0))

    def draw(scheduler: str, steps: int) -> tuple[Tensor, float]:
        pipeline.scheduler = make_scheduler(scheduler)
        began = time.perf_counter()
        images = pipeline(
            stacked["source"], [sample["prompt"] for sample in samples], stacked.get("vllm_image"),
            stacked.get("vllm_text"), num_inference_steps=steps, guidance_scale=config.sampling.scales_txt[0],
            image_guidance_scale=config.sampling.scales_img[0], latents=latents.to(pipeline.device),
            generator=torch.Generator().manual_seed(1), output_type="pt",
        ).images  # fmt: skip
        return images.clamp(-1, 1).float().cpu(), len(samples) / (time.perf_counter() - began)

    target = stacked["target"].cpu()
    # The limit of many small steps, without the ancestral steps' fresh noise.
    limit, _ = draw("ddim", 200)
    rows = []
    print(f"{'scheduler':16} {'steps':>5} {'frames/s':>9} {'PSNR to DDIM 200':>17} {'to the target':>14}")
    for name, steps in [("euler_ancestral", 100), *FAST]:
        images, found = draw(name, steps)
        rows.append(
            {"scheduler": name, "steps": steps, "frames_per_second": found,
             "psnr_to_limit": psnr(images, limit), "psnr_to_target": psnr(images, target)}
        )  # fmt: skip
        row = rows[-1]
        print(f"{name:16} {steps:5d} {found:9.2f} {row['psnr_to_limit']:17.2f} {row['psnr_to_target']:14.2f}")
    return rows


def psnr(found: Tensor, expected: Tensor) -> float:
    """Mean peak signal-to-noise ratio of frames in [-1, 1], in dB."""
    error = (found - expected).square().mean(dim=(1, 2, 3))
    return float((10 * torch.log10(4 / error)).mean())


def main() -> None:
    """Measures, prints tables, writes JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=["toy", "tiny", "sd15"], default="toy")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=0, help="[100 at sd15, else 10]")
    parser.add_argument("--seconds", type=float, default=10.0, help="time for each line")
    parser.add_argument("--ckpt", type=Path, help="trained checkpoint, for the table of quality")
    parser.add_argument("--config", type=Path, help="its configs/generate_*.yaml")
    parser.add_argument("--val", type=int, default=64, help="frames in the table of quality")
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()
    args.steps = args.steps or (100 if args.size == "sd15" else 10)
    results: dict[str, Any] = {"speed": speed(args)}
    if args.ckpt:
        results["quality"] = quality(args)
    if args.json:
        write_json(args.json, results)
        print(json.dumps({"written": str(args.json)}))


if __name__ == "__main__":
    main()
