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

import argparse
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from egogen.files import write_json
from ldm.config.merge import load_config
from ldm.config.sections import GenerateConfig, TrainConfig
from ldm.networks.architecture import LATENT_CHANNELS, Architecture, Parts, build
from ldm.sampling.methods import COPY, GUIDED, METHODS, PLAIN, Request, Scales, copy_frame, wrap

TOY_CONFIG = Path(__file__).parents[1] / "configs" / "train_toy.yaml"
# TFLOP/s of dense products, as vendors state them: in bf16 and in 32 bits.
PEAK = {"H200": (989.0, 67.0), "H100": (989.0, 67.0), "A100": (312.0, 19.5)}
PROMPT, SOURCE_PROMPT = "the left hand opens the box", "a table with a box"


class Sizes(NamedTuple):
    """Networks, the side of a frame in pixels, and the block from which ProxMasaCtrl acts."""

    shape: Architecture
    side: int
    first_block: int


def sizes(name: str, resolution: int | None) -> Sizes:
    """Those of Stable Diffusion 1.5, or of the toy world."""
    if name == "full":
        return Sizes(Architecture(), resolution or 256, 10)
    config = load_config(TrainConfig, [TOY_CONFIG])
    return Sizes(config.model.shape, resolution or config.data.resolution, 4)


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


def unet_rows(parts: Parts, work: Callable[[], Any]) -> int:
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


def seconds_of(work: Callable[[], Any], repeats: int, device: str) -> float:
    """Of the fastest of some runs."""
    found = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        if device != "cpu":
            torch.cuda.synchronize()
        found.append(time.perf_counter() - began)
    return min(found)


def measure(method: str, given: Sizes, config: GenerateConfig, args: argparse.Namespace) -> dict[str, Any]:
    """A method's row of the table. The first run counts calls, and on a GPU work, and is not timed."""
    on_gpu = args.device != "cpu"
    row: dict[str, Any] = {"method": method, "steps": steps_of(method, config), "unet_calls_per_image": 0.0}
    if method == COPY:
        frame = Image.fromarray(np.zeros((256, 455, 3), np.uint8))
        return {**row, "seconds_per_image": seconds_of(lambda: copy_frame(frame, given.side, 455), 3, "cpu")}
    parts = networks(method, given.shape, args.device)
    prepare(
        parts, torch.device(args.device), torch.bfloat16 if args.precision == "bf16" else torch.float32, False
    )
    draw, asked = (
        wrap(method, parts, config, torch.device(args.device)),
        request(method, given, args.batch, args.device),
    )

    def work() -> Tensor:
        with torch.no_grad():
            return draw(asked)

    counter = FlopCounterMode(display=False)
    if on_gpu:
        with counter:
            rows = unet_rows(parts, work)
        torch.cuda.reset_peak_memory_stats()
    else:
        rows = unet_rows(parts, work)
    row["unet_calls_per_image"] = rows / args.batch
    row["seconds_per_image"] = seconds_of(work, args.repeats, args.device) / args.batch
    if on_gpu:
        row["peak_memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
        row["tflop_per_image"] = counter.get_total_flops() / 1e12 / args.batch
        peaks = next((value for key, value in PEAK.items() if key in torch.cuda.get_device_name()), None)
        if peaks:
            peak = peaks[0 if args.precision == "bf16" else 1]
            row["share_of_peak"] = row["tflop_per_image"] / row["seconds_per_image"] / peak
    return row


def table(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Measures and prints each method's row."""
    given = sizes(args.size, args.resolution)
    config = settings(args.steps, given.first_block)
    on_gpu = args.device != "cpu"
    where = torch.cuda.get_device_name() if on_gpu else f"{torch.get_num_threads()} CPU threads"
    print(
        f"{args.size}, {given.side} x {given.side} pixels, batches of {args.batch}, "
        f"UNet in {args.precision}, {where}, torch {torch.__version__}"
    )
    head = f"{'method':14} {'steps':>5} {'UNet calls':>10} {'s/image':>9} {'to lego':>8}"
    print(head + (f" {'image/s':>8} {'GiB':>6} {'of peak':>8}" if on_gpu else ""))
    rows: list[dict[str, Any]] = []
    for method in METHODS:
        row = measure(method, given, config, args)
        rows.append(row)
        row["ratio_to_lego"] = row["seconds_per_image"] / rows[0]["seconds_per_image"]
        line = f"{method:14} {row['steps']:5d} {row['unet_calls_per_image']:10.0f} "
        line += f"{row['seconds_per_image']:9.4g} {row['ratio_to_lego']:8.3f}"
        if "peak_memory_gib" in row:
            share = f"{row['share_of_peak']:.0%}" if "share_of_peak" in row else "-"
            line += f" {1 / row['seconds_per_image']:8.2f} {row['peak_memory_gib']:6.1f} {share:>8}"
        print(line, flush=True)
    return rows


def main() -> None:
    """Parses, measures, prints, writes JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=["full", "toy"], default="full")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--steps", type=int, help="of every method [each its default]")
    parser.add_argument("--resolution", type=int, help="side of the frames [256; toy 48]")
    parser.add_argument("--precision", choices=["bf16", "32"], help="of the UNet [bf16 on a GPU, else 32]")
    parser.add_argument("--repeats", type=int, default=1, help="timed runs, of which the fastest counts")
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()
    args.precision = args.precision or ("32" if args.device == "cpu" else "bf16")
    logging.getLogger("diffusers").setLevel(logging.ERROR)
    rows = table(args)
    if args.json:
        write_json(args.json, {"settings": {k: str(v) for k, v in vars(args).items()}, "methods": rows})


if __name__ == "__main__":
    main()
