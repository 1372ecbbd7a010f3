"""What a frame costs by each preset, in 32 and in 16 bits, and by 4 passes of a distilled UNet, in one run.

    python benchmarks/ldm_presets.py                  # toy size: seconds
    python benchmarks/ldm_presets.py --size sd15      # the true sizes, random weights: minutes on a CPU

One frame at a time, encoding and decoding included. Of a drawing with more steps than `--whole`, all guided
alike, two short ones are measured, of 1 and 3 steps, and the other steps are added as their difference says
(`scaled`). The last rows are one photo drawn and written as `ldm.edit` does, the model loaded, and frames of
a split, without features of stage 1, read, drawn and written as `ldm.sample` does: `unet_share` is the UNet's
part of it. `share_of_peak` is of what a product of matrices of the same bits attains in the same run. The
table of costs names what takes most of the time of a published step and of four passes, coding included.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from measuring import OnDevice, SpeedTable, fastest, largest_costs, made_up, networks_of, run
from PIL import Image
from torch import Tensor

from egogen.cli import flag
from egogen.errors import UserError
from egogen.shards import WHOLE
from egogen.toy.world import write_world
from ldm.config.merge import load_config
from ldm.config.sections import GenerateConfig, SamplingConfig
from ldm.data.pairs import SplitFiles
from ldm.networks.architecture import Parts, build
from ldm.networks.distilled import Distilled
from ldm.networks.precision import Precisions
from ldm.networks.scales import state_distilled
from ldm.pipeline import LegoPipeline
from ldm.sampling.drawing_config import adapted
from ldm.sampling.drawing_job import Share, make_jobs
from ldm.sampling.drawing_loop import draw_jobs
from ldm.sampling.drawing_plan import DrawingPlan, Request, Scales
from ldm.sampling.editing import Condition, draw
from ldm.sampling.methods import draw_guided, prepare, wrap
from ldm.sampling.presets import read_preset

FULL, HALF = Precisions("32", "32"), Precisions("bf16", "bf16")
SHORT, LONGER = 1, 3  # steps of the two drawings that a long one is scaled from
# Work of a pass of the UNet, and of encoding and decoding a frame, at the true sizes (TFLOP).
PASS_WORK, CODING_WORK = 0.194, 0.93


@dataclass(frozen=True)
class PresetCost(OnDevice):
    """The flags."""

    size: str = flag("of the networks", choices=["toy", "tiny", "sd15"], default="toy")
    whole: int = flag("steps up to which a drawing is measured whole", type=int, default=20)
    repeats: int = flag("timed runs, of which the fastest counts", type=int, default=1)
    frames: int = flag("frames of the split", type=int, default=4)


class Timer:
    """Seconds within calls of a module."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.seconds, self.began = 0.0, 0.0
        module.register_forward_pre_hook(self.begin)
        module.register_forward_hook(self.end)

    def begin(self, *_: object) -> None:
        """Before a call."""
        self.began = time.perf_counter()

    def end(self, *_: object) -> None:
        """After it."""
        self.seconds += time.perf_counter() - self.began


def seconds_per_frame(
    parts: Parts, sampling: SamplingConfig, given: Request, options: PresetCost
) -> tuple[float, int, bool]:
    """Seconds and passes of a frame, and whether they are scaled."""
    request = replace(given, scales=Scales(sampling.scales_txt[0], sampling.scales_img[0]))
    pipeline = LegoPipeline.from_parts(parts, sampling.scheduler)

    def drawing(steps: int) -> Callable[[], Tensor]:
        return lambda: draw_guided(pipeline, replace(sampling, steps=steps), request)

    def measured(steps: int) -> float:
        return fastest(drawing(steps), options.repeats, options.device)

    # Steps that are not alike, and timesteps that are as many as they are, cannot be scaled.
    uneven = sampling.interval_txt or sampling.interval_img or sampling.timesteps != "own"
    if sampling.steps <= options.whole or uneven:
        return measured(sampling.steps), pipeline.passes, False
    short, longer = measured(SHORT), measured(LONGER)
    if longer <= short:
        raise UserError(
            f"{LONGER} steps took no longer than {SHORT}: other work disturbs; --whole measures all"
        )
    step = (longer - short) / (LONGER - SHORT)
    return short + (sampling.steps - SHORT) * step, pipeline.passes // LONGER * sampling.steps, True


def measure(options: PresetCost, folder: Path) -> dict[str, SpeedTable]:
    """Measures each preset, then four passes: alone, as one photo, and as a split."""
    (shape, side), device = networks_of(options.size), torch.device(options.device)
    torch.manual_seed(0)
    with device:
        parts = build(shape)
    given = made_up(shape, 1, side, options.device)
    print(f"{options.size}, {side} x {side} pixels, {options.machine}, torch {torch.__version__}")
    table = SpeedTable("frames_per_second", width=46)

    def add(name: str, precisions: Precisions, sampling: SamplingConfig) -> None:
        prepare(parts, device, precisions, compiled=False)
        # A network's first call is slow.
        first = replace(sampling, timesteps="own", steps=4 if sampling.steps == 4 else 1)
        seconds_per_frame(parts, first, given, options)
        seconds, passes, scaled = seconds_per_frame(parts, sampling, given, options)
        work, bits = passes * PASS_WORK + CODING_WORK, "bf16" if precisions.unet == "bf16" else "float32"
        table.add(
            setting=name, steps=sampling.steps, passes=passes, seconds=seconds, frames_per_second=1 / seconds,
            scaled=scaled,
            share_of_peak=options.share(work / seconds, bits) if options.size == "sd15" else None,
        )  # fmt: skip

    published, once = read_preset("published"), replace(options, repeats=1)
    add("published, 32 bits", FULL, published)
    half = HALF if device.type == "cpu" else HALF._replace(vae="32")
    add("published, 16 bits", half, published)
    step = replace(published, steps=1)
    costs = largest_costs(
        "a step as published, 16 bits", partial(seconds_per_frame, parts, step, given, once), options.device
    )
    for name in ("balanced", "fast"):
        add(f"{name}, 16 bits", half, read_preset(name))
    baked = Distilled([7.5, 7.5], [1.5, 1.5], phases=4, baked=True)
    state_distilled(parts.unet, baked)
    four = adapted(read_preset("fast"), baked)
    add("fast, 16 bits, distilled to 4 phases", half, four)
    costs += largest_costs(
        "four passes, 16 bits", partial(seconds_per_frame, parts, four, given, once), options.device
    )
    pipeline = LegoPipeline.from_parts(parts, four.scheduler)
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 255, (256, 455, 3), np.uint8))

    def edited() -> None:
        with pipeline.quiet():
            draw(pipeline, photo, Condition("open the box"), side, four, 0).save(folder / "frame.png")

    seconds = fastest(edited, options.repeats, options.device)
    table.add(
        setting="one photo as ldm.edit does", steps=4, passes=pipeline.passes, seconds=seconds,
        frames_per_second=1 / seconds, scaled=False,
    )  # fmt: skip
    return {"presets": table, "costs": costs, "split": split(parts, four, side, options, folder)}


def split(parts: Parts, sampling: SamplingConfig, side: int, options: PresetCost, folder: Path) -> SpeedTable:
    """Draws frames of a split, read from files and written to files, one at a time."""
    device = torch.device(options.device)
    write_world(folder / "data", 1, options.frames, size=256)
    words = [f"data.root={folder / 'data'}", "data.text_key=action", f"data.resolution={side}"]
    config = load_config(GenerateConfig, [], words)
    config = replace(config, sampling=replace(sampling, batch_size=1))
    config = replace(config, model=replace(config.model, vllm_features=False))
    files = SplitFiles(config.data, "val")
    jobs = make_jobs(folder / "out", DrawingPlan("ip2p", config, None, True, device), files)
    for job in jobs:
        job.take(Share(WHOLE))
    drawer, timer = wrap("ip2p", parts, config, device), Timer(parts.unet)
    began = time.perf_counter()
    draw_jobs(jobs, drawer, files, device)
    seconds = time.perf_counter() - began
    table = SpeedTable(width=46)
    table.add(
        setting="a split as ldm.sample does, batches of one", frames=options.frames, seconds=seconds,
        frames_per_second=options.frames / seconds, unet_share=timer.seconds / seconds,
    )  # fmt: skip
    return table


if __name__ == "__main__":
    run(measure, PresetCost, __doc__)
