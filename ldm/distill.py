"""Distils LEGO: one UNet pass a step in place of three, then a few steps; `bake` fixes the guidance scales.

Its runs are trained, resumed and looked at as those of `main.py`. `python -m ldm.distill bake SRC DST
--scales W_T W_I` writes a distilled checkpoint, for one pair of scales, as a plain InstructPix2Pix one.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from egogen import cli
from egogen.cli import flag
from ldm.training.run_options import TrainOptions

PROG = "python -m ldm.distill"
BAKE = "bake"


@dataclass(frozen=True)
class DistillOptions(TrainOptions):
    """The flags of `main.py`, and the teacher."""

    teacher: Path | None = flag(
        "checkpoint that is distilled, a file or a diffusers folder; the same as model.start=FILE",
        type=Path,
        metavar="FILE",
    )


@dataclass(frozen=True)
class BakeOptions:
    """The arguments of `bake`."""

    source: Path = flag(
        "distilled checkpoint, a file or a diffusers folder", positional=True, type=Path, metavar="SRC"
    )
    target: Path = flag(
        "what to write: a name that ends in .ckpt or .safetensors, else a diffusers folder; must not exist",
        positional=True, type=Path, metavar="DST",
    )  # fmt: skip
    scales: list[float] = flag(
        "guidance by text and features, and by the frame", nargs=2, type=float, required=True,
        metavar=("W_T", "W_I"),
    )  # fmt: skip
    no_ema: bool = flag("the last weights, not their moving average", action="store_true")
    stock: bool = flag("of a folder: one that diffusers loads without this package", action="store_true")


def main(argv: Sequence[str] | None = None) -> None:
    """Parses, distils; or bakes."""
    words = sys.argv[1:] if argv is None else argv
    if words and words[0] == BAKE:
        bake(words[1:])
        return
    options = cli.options(
        DistillOptions,
        words,
        PROG,
        __doc__,
        epilog=f"{PROG} {BAKE} SRC DST --scales W_T W_I: see {PROG} {BAKE} --help.",
    )
    from ldm.config.distillation import DistillConfig

    advice = "give the checkpoint to distil by --teacher FILE"
    config, run = options.read(DistillConfig, advice, options.teacher)
    from ldm.distilling.beginning import DISTILLATION
    from ldm.training.run import parse_gpus, train

    gpus = parse_gpus(options.gpus)
    with options.held(run):
        train(config, run, gpus, options.resume, options.train, DISTILLATION)


def bake(words: Sequence[str]) -> None:
    """Fixes the guidance scales of a checkpoint."""
    options = cli.options(
        BakeOptions, words, f"{PROG} {BAKE}", "Writes a distilled checkpoint for one pair of guidance scales."
    )
    from ldm.distilling.baking import bake_checkpoint

    text, image = options.scales
    bake_checkpoint(options.source, options.target, text, image, not options.no_ema, options.stock)


if __name__ == "__main__":
    cli.run(main)
