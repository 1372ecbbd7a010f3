"""What a frame costs by each method: the same networks and sizes, frames of the same size, in one run.

    python benchmarks/methods.py                            # full-size networks, random weights
    python benchmarks/methods.py --steps 2 --resolution 256 # the same, minutes on a CPU
    python benchmarks/methods.py --size toy                 # the toy world's sizes, seconds on a CPU
    python benchmarks/methods.py --batch 8 --json FILE      # on a GPU

Random weights change no speed. Without --steps each method takes its own default number (100 for LEGO and
InstructPix2Pix, 50 for the others), without --resolution 256 pixels (toy: 48). UNet calls count rows: a batch
of three is three. Encoding, text, features and decoding are in the seconds; reading and writing files not.
"""

from __future__ import annotations

import logging
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from measuring import OnDevice, SpeedTable, clock, fastest, made_up, networks_of, run
from PIL import Image
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from egogen.cli import flag
from ldm.config.merge import load_config
from ldm.config.sections import GenerateConfig
from ldm.networks.architecture import build
from ldm.networks.precision import Precisions
from ldm.networks.shapes import LATENT_CHANNELS, Architecture
from ldm.sampling.drawing_plan import copy_frame
from ldm.sampling.method_names import COPY, GUIDED, PLAIN
from ldm.sampling.methods import prepare, wrap


@dataclass(frozen=True)
class MethodCost(OnDevice):
    """The flags."""

    size: str = flag("of the networks", choices=["full", "toy"], default="full")
    batch: int = flag("frames at a time", type=int, default=1)
    steps: int | None = flag("of every method [each its default]", type=int)
    resolution: int | None = flag("side of the frames [256; toy 48]", type=int)
    precision: str | None = flag("of the UNet [bf16 on a GPU, else 32]", choices=["bf16", "32"])
    repeats: int = flag("timed runs, of which the fastest counts", type=int, default=1)

    @property
    def half(self) -> bool:
        """Whether the UNet runs in bfloat16."""
        return (self.precision or ("bf16" if self.on_gpu else "32")) == "bf16"


def settings(options: MethodCost) -> GenerateConfig:
    """All methods' settings: their defaults but for the number of steps."""
    # The block from which ProxMasaCtrl acts: the toy networks have fewer.
    words = [f"proxmasactrl.masa_layer={4 if options.size == 'toy' else 10}"]
    for section in ("proxnpi", "proxmasactrl"):
        words += [f"{section}.source_prompt=fixed", f"{section}.source_text=a table with a box"]
    if options.steps is not None:
        words += [f"{section}.steps={options.steps}" for section in ("sampling", *PLAIN)]
    return load_config(GenerateConfig, [], words)


def measure_method(
    method: str, shape: Architecture, side: int, config: GenerateConfig, options: MethodCost
) -> dict[str, float | None]:
    """A method's figures. The first run counts calls, and on a GPU work, and is not timed."""
    if method == COPY:
        frame = Image.fromarray(np.zeros((256, 455, 3), np.uint8))
        seconds = fastest(lambda: copy_frame(frame, side, 455), 3)
        return {"steps": 0, "unet_calls_per_image": 0.0, "seconds_per_image": seconds}
    device = torch.device(options.device)
    channels = 2 * LATENT_CHANNELS if method in GUIDED else LATENT_CHANNELS
    torch.manual_seed(0)
    with device:
        parts = build(replace(shape, unet=replace(shape.unet, in_channels=channels)), method == "lego")
    prepare(parts, device, Precisions("bf16" if options.half else "32", "32"), False)
    draw = wrap(method, parts, config, device)
    asked = made_up(shape, options.batch, side, options.device)
    if method != "lego":
        asked.image_features = asked.text_features = None

    def work() -> Tensor:
        with torch.no_grad():
            return draw(asked)

    rows: list[int] = []
    hook = parts.unet.register_forward_pre_hook(lambda _unet, given: rows.append(len(given[0])))
    counter, tflop, share = FlopCounterMode(display=False), None, None
    with counter if options.on_gpu else nullcontext():
        work()
    hook.remove()
    found = clock(lambda: fastest(work, options.repeats, options.device), options.device)
    seconds = found.result / options.batch
    if options.on_gpu:
        tflop = counter.get_total_flops() / 1e12 / options.batch
        share = options.share(tflop / seconds, "bf16" if options.half else "float32")
    return {
        "steps": (config.sampling if method in GUIDED else getattr(config, method)).steps,
        "unet_calls_per_image": sum(rows) / options.batch, "seconds_per_image": seconds,
        "peak_memory_gib": found.gib, "tflop_per_image": tflop, "share_of_peak": share or None,
    }  # fmt: skip


def measure(options: MethodCost, _folder: Path) -> dict[str, SpeedTable]:
    """Measures each method."""
    logging.getLogger("diffusers").setLevel(logging.ERROR)
    shape, side = networks_of(options.size)
    side, config = options.resolution or side, settings(options)
    sizes = f"{side} x {side} pixels, batches of {options.batch}, UNet in {'bf16' if options.half else '32'}"
    print(f"{options.size}, {sizes}, {options.machine}, torch {torch.__version__}")
    table = SpeedTable("seconds_per_image")
    for method in (*GUIDED, *PLAIN, COPY):
        table.add(method=method, **measure_method(method, shape, side, config, options))
    return {"methods": table}


if __name__ == "__main__":
    run(measure, MethodCost, __doc__)
