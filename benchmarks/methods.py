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
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from measuring import OnDevice, SpeedTable, clock, fastest, read_flags, report, toy_networks
from PIL import Image
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from egogen.cli import flag
from ldm.config.merge import load_config
from ldm.config.sections import GenerateConfig
from ldm.networks.architecture import LATENT_CHANNELS, Architecture, Parts, build
from ldm.sampling.methods import COPY, GUIDED, METHODS, PLAIN, Request, Scales, copy_frame, prepare, wrap

PROMPT, SOURCE_PROMPT = "the left hand opens the box", "a table with a box"


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


class Sizes(NamedTuple):
    """Networks, the side of a frame in pixels, and the block from which ProxMasaCtrl acts."""

    shape: Architecture
    side: int
    first_block: int


def sizes(name: str, resolution: int | None) -> Sizes:
    """Those of Stable Diffusion 1.5, or of the toy world."""
    if name == "full":
        return Sizes(Architecture(), resolution or 256, 10)
    shape, side = toy_networks()
    return Sizes(shape, resolution or side, 4)


def settings(steps: int | None, first_block: int) -> GenerateConfig:
    """All methods' settings: their defaults but for the number of steps."""
    words = [f"proxmasactrl.masa_layer={first_block}"]
    for section in ("proxnpi", "proxmasactrl"):
        words += [f"{section}.source_prompt=fixed", f"{section}.source_text={SOURCE_PROMPT}"]
    if steps is not None:
        words += [f"{section}.steps={steps}" for section in ("sampling", *PLAIN)]
    return load_config(GenerateConfig, [], words)


def steps_of(method: str, config: GenerateConfig) -> int:
    """How many sampling steps a method takes."""
    if method == COPY:
        return 0
    steps: int = (config.sampling if method in GUIDED else getattr(config, method)).steps
    return steps


def networks(method: str, shape: Architecture, device: str) -> Parts:
    """Of random weights, as the method needs them."""
    channels = 2 * LATENT_CHANNELS if method in GUIDED else LATENT_CHANNELS
    torch.manual_seed(0)
    with torch.device(device):
        return build(replace(shape, unet=replace(shape.unet, in_channels=channels)), method == "lego")


def request(method: str, given: Sizes, batch: int, device: str) -> Request:
    """Made-up frames, and features for LEGO."""
    generator = torch.Generator().manual_seed(0)
    shape, side = given.shape, given.side
    made = Request(
        torch.rand(batch, 3, side, side, generator=generator).to(device) * 2 - 1,
        [PROMPT] * batch,
        [torch.Generator().manual_seed(index) for index in range(batch)],
        Scales(7.5, 1.5),
    )
    if method == "lego":
        made.image_features = torch.randn(batch, 256, shape.llm_width, generator=generator).to(device)
        made.text_features = torch.randn(batch, 77, shape.llm_width, generator=generator).to(device)
    return made


def unet_rows(parts: Parts, work: Callable[[], Tensor]) -> int:
    """Rows that the UNet is called with while the work is done."""
    found = 0

    def count(_module: nn.Module, given: tuple[Tensor, ...]) -> None:
        nonlocal found
        found += len(given[0])

    hook = parts.unet.register_forward_pre_hook(count)
    try:
        work()
    finally:
        hook.remove()
    return found


def measure(
    method: str, given: Sizes, config: GenerateConfig, options: MethodCost, table: SpeedTable
) -> None:
    """A method's row of the table. The first run counts calls, and on a GPU work, and is not timed."""
    steps = steps_of(method, config)
    if method == COPY:
        frame = Image.fromarray(np.zeros((256, 455, 3), np.uint8))
        seconds = fastest(lambda: copy_frame(frame, given.side, 455), 3)
        table.add(method=method, steps=steps, unet_calls_per_image=0.0, seconds_per_image=seconds)
        return
    parts = networks(method, given.shape, options.device)
    prepare(parts, torch.device(options.device), torch.bfloat16 if options.half else torch.float32, False)
    draw, asked = (
        wrap(method, parts, config, torch.device(options.device)),
        request(method, given, options.batch, options.device),
    )

    def work() -> Tensor:
        with torch.no_grad():
            return draw(asked)

    counter, tflop, share = FlopCounterMode(display=False), None, None
    with counter if options.on_gpu else nullcontext():
        rows = unet_rows(parts, work)
    found = clock(lambda: fastest(work, options.repeats, options.device), options.device)
    seconds = found.result / options.batch
    if options.on_gpu:
        tflop = counter.get_total_flops() / 1e12 / options.batch
    if options.peak and tflop:
        share = tflop / seconds / (options.peak.bf16 if options.half else options.peak.float32)
    table.add(
        method=method, steps=steps, unet_calls_per_image=rows / options.batch, seconds_per_image=seconds,
        peak_memory_gib=found.gib, tflop_per_image=tflop, share_of_peak=share,
    )  # fmt: skip


def main() -> None:
    """Measures each method."""
    options = read_flags(MethodCost, "methods", __doc__)
    logging.getLogger("diffusers").setLevel(logging.ERROR)
    given = sizes(options.size, options.resolution)
    config = settings(options.steps, given.first_block)
    print(
        f"{options.size}, {given.side} x {given.side} pixels, batches of {options.batch}, "
        f"UNet in {'bf16' if options.half else '32'}, {options.machine}, torch {torch.__version__}"
    )
    table = SpeedTable("seconds_per_image")
    for method in METHODS:
        measure(method, given, config, options, table)
    report(options, methods=table.rows)


if __name__ == "__main__":
    main()
