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

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from measuring import OnDevice, SpeedTable, clock, made_up, networks_of, rate, run
from torch import Tensor

from egogen.cli import flag
from ldm import denoiser as denoiser_module
from ldm.checkpoints.source import load_parts
from ldm.config.merge import load_config
from ldm.config.sections import GenerateConfig
from ldm.data.pairs import EgoGenPairs, SplitFiles, stack
from ldm.diffusion.sampler import make_scheduler
from ldm.metrics.psnr import score as psnr
from ldm.networks.architecture import build
from ldm.networks.attention import is_plain
from ldm.pipeline import LegoPipeline

# Work of one drawn frame at 100 steps at the true sizes (TFLOP).
WORK_100_STEPS = 59.0
PUBLISHED = "published: batch 1, 32-bit, keys and values at every step"
BATCH, FIXED, LAYOUT = "+ batches", "+ keys and values once", "+ channels_last"
HALF, COMPILE = "+ bf16 UNet", "+ torch.compile"  # on a GPU
FAST = [("euler_ancestral", 50), ("dpmpp_2m", 50), ("dpmpp_2m", 25), ("dpmpp_2m", 15), ("unipc", 25),
        ("unipc", 15), ("unipc", 10), ("ddim", 50), ("ddim", 25)]  # fmt: skip


@dataclass(frozen=True)
class SampleSpeed(OnDevice):
    """The flags."""

    size: str = flag("of the networks", choices=["toy", "tiny", "sd15"], default="toy")
    batch: int = flag("frames at a time", type=int, default=16)
    steps: int = flag("0: 100 at sd15, else 10", type=int, default=0)
    seconds: float = flag("time for each line", type=float, default=10.0)
    ckpt: Path | None = flag("trained checkpoint, for the table of quality", type=Path)
    config: Path | None = flag("its configs/generate_*.yaml", type=Path)
    val: int = flag("frames in the table of quality", type=int, default=64)


def speed(options: SampleSpeed) -> SpeedTable:
    """Measures the published way and ours, one change after the other."""
    (shape, side), device = networks_of(options.size), options.device
    steps = options.steps or (100 if options.size == "sd15" else 10)
    torch.manual_seed(0)
    with torch.device(device):
        parts = build(shape)
    torch.set_float32_matmul_precision("high")
    pipeline = LegoPipeline.from_parts(parts).to(device)
    pipeline.set_progress_bar_config(disable=True)
    print(f"{options.size}, {options.machine}, {steps} steps, torch {torch.__version__}")
    table, batch = SpeedTable("frames_per_second", width=60), 1
    denoiser_module.is_plain = lambda _: False
    for name in [PUBLISHED, BATCH, FIXED, LAYOUT, *([HALF, COMPILE] if options.on_gpu else [])]:
        if name == BATCH:
            batch = options.batch
        elif name == FIXED:
            denoiser_module.is_plain = is_plain
        elif name == LAYOUT:
            pipeline.unet.to(memory_format=torch.channels_last)
        elif name == HALF:
            pipeline.unet.to(torch.bfloat16)
        elif name == COMPILE:
            pipeline.unet.compile()
        given = made_up(shape, batch, side, device)
        draw = partial(
            pipeline, given.source, given.prompts, given.image_features, given.text_features,
            num_inference_steps=steps, generator=given.generators, output_type="pt",
        )  # fmt: skip
        found = clock(lambda draw=draw: rate(lambda: draw().images, options.seconds), device)
        frames = batch * found.result
        work = frames * WORK_100_STEPS * steps / 100
        table.add(
            setting=name, batch=batch, frames_per_second=frames, peak_memory_gib=found.gib,
            share_of_peak=options.share(work, "bf16" if options.on_gpu else "float32")
            if options.size == "sd15" else None,
        )  # fmt: skip
    return table


def quality(checkpoint: Path, options: SampleSpeed) -> SpeedTable:
    """Measures how far few steps are from many, on a trained checkpoint's val split."""
    config = load_config(GenerateConfig, [options.config] if options.config else [], [])
    parts = load_parts(checkpoint, config.model.architecture, conditioner=config.model.vllm_features)
    pipeline = LegoPipeline.from_parts(parts).to(options.device)
    pipeline.set_progress_bar_config(disable=True)
    width = config.model.shape.llm_width if config.model.vllm_features else None
    pairs = EgoGenPairs([SplitFiles(config.data, "val", width, config.features.store)])
    samples = [pairs[index] for index in range(min(options.val, len(pairs)))]
    stacked = stack(samples, pipeline.device, pairs.visions)
    side = config.data.resolution // config.model.shape.vae.factor
    latents = torch.randn(len(samples), 4, side, side, generator=torch.Generator().manual_seed(0))

    def draw(scheduler: str, steps: int) -> tuple[Tensor, float]:
        pipeline.scheduler = make_scheduler(scheduler)
        seconds, _, images = clock(lambda: pipeline(
            stacked["source"], [sample["prompt"] for sample in samples], stacked.get("vllm_image"),
            stacked.get("vllm_text"), num_inference_steps=steps, guidance_scale=config.sampling.scales_txt[0],
            image_guidance_scale=config.sampling.scales_img[0], latents=latents.to(pipeline.device),
            generator=torch.Generator().manual_seed(1), output_type="pt",
        ).images.clamp(-1, 1).float().cpu() / 2 + 0.5)  # fmt: skip
        return images, len(samples) / seconds

    target = stacked["target"].cpu() / 2 + 0.5
    # The limit of many small steps, without the ancestral steps' fresh noise.
    limit, _ = draw("ddim", 200)
    table = SpeedTable()
    for name, steps in [("euler_ancestral", 100), *FAST]:
        images, found = draw(name, steps)
        to_limit, to_target = (psnr(images, other).mean().item() for other in (limit, target))
        table.add(
            scheduler=name, steps=steps, frames_per_second=found,
            psnr_to_limit=to_limit, psnr_to_target=to_target,
        )  # fmt: skip
    return table


def measure(options: SampleSpeed, _folder: Path) -> dict[str, SpeedTable]:
    """Measures the speed and, of a trained checkpoint, the quality."""
    tables = {"speed": speed(options)}
    return tables | ({"quality": quality(options.ckpt, options)} if options.ckpt else {})


if __name__ == "__main__":
    run(measure, SampleSpeed, __doc__)
