"""Converts checkpoints: published single files to diffusers folders, and back.

compvis2diffusers SRC.ckpt DST/     Stable Diffusion 1.5, InstructPix2Pix, LEGO, or one of our training runs
diffusers2compvis SRC/ DST.ckpt     also DST.safetensors
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from egogen.cli import parser, run
from egogen.disk import writing
from egogen.errors import UserError
from egogen.files import atomic_folder
from ldm.checkpoints.diffusers_folder import INDEX, architecture_of
from ldm.checkpoints.source import load_parts
from ldm.checkpoints.writing import published_state, write
from ldm.pipeline import LegoPipeline

log = logging.getLogger(__name__)


def arguments() -> argparse.ArgumentParser:
    """The command's flags."""
    made = parser("python -m ldm.convert", __doc__)
    made.formatter_class = argparse.RawDescriptionHelpFormatter
    made.add_argument("way", choices=["compvis2diffusers", "diffusers2compvis"])
    made.add_argument("source", type=Path, metavar="SRC", help="the checkpoint to read")
    made.add_argument("target", type=Path, metavar="DST", help="what to write; must not exist")
    made.add_argument("--config", type=Path, help="YAML with what no tensor tells, such as the UNet's heads")
    made.add_argument("--no-ema", action="store_true", help="the last weights, not their moving average")
    made.add_argument(
        "--stock", action="store_true",
        help="write a stock InstructPix2Pix pipeline, which diffusers loads without this package, and beside "
        "it the conditioner",
    )  # fmt: skip
    return made


def main(argv: Sequence[str] | None = None) -> None:
    """Reads strictly, writes whole or nothing."""
    args = arguments().parse_args(argv)
    if args.target.exists():
        raise UserError(f"{args.target}: is there already; delete it or choose another name")
    if args.way == "compvis2diffusers":
        if args.source.is_dir():
            raise UserError(f"{args.source}: is a folder; expected a .ckpt or .safetensors file")
        pipeline = LegoPipeline.from_single_file(args.source, args.config, use_ema=not args.no_ema)
        with atomic_folder(args.target) as part, writing(args.target):
            save = pipeline.save_instruct_pix2pix if args.stock else pipeline.save_pretrained
            save(part)
    else:
        if not (args.source / INDEX).is_file():
            raise UserError(f"{args.source}: no {INDEX} here; expected a diffusers pipeline folder")
        if args.target.suffix not in (".ckpt", ".safetensors"):
            raise UserError(f"{args.target}: expected a name that ends in .ckpt or .safetensors")
        parts = load_parts(args.source)
        shape = architecture_of(parts)
        write(args.target, published_state(parts, shape), shape)
    log.info("wrote %s", args.target)


if __name__ == "__main__":
    run(main)
