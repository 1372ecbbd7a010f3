"""Converts checkpoints: published single files to diffusers folders, and back."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from egogen import cli
from egogen.cli import flag
from egogen.disk import writing
from egogen.errors import UserError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ConvertOptions:
    """The command's arguments."""

    way: str = flag(
        "compvis2diffusers: SRC.ckpt (Stable Diffusion 1.5, InstructPix2Pix, LEGO, or one of our trainings)"
        " to DST/; diffusers2compvis: SRC/ to DST.ckpt or DST.safetensors",
        positional=True, choices=["compvis2diffusers", "diffusers2compvis"],
    )  # fmt: skip
    source: Path = flag("the checkpoint to read", positional=True, type=Path, metavar="SRC")
    target: Path = flag("what to write; must not exist", positional=True, type=Path, metavar="DST")
    config: Path | None = flag("YAML with what no tensor tells, such as the UNet's heads", type=Path)
    no_ema: bool = flag("the last weights, not their moving average", action="store_true")
    bake: list[float] | None = flag(
        "of a distilled checkpoint: fixes the guidance by text and features, and by the frame; the result is "
        "a plain InstructPix2Pix", nargs=2, type=float, metavar=("W_T", "W_I"),
    )  # fmt: skip
    stock: bool = flag(
        "write a stock InstructPix2Pix pipeline, which diffusers loads without this package, and beside it "
        "the conditioner", action="store_true",
    )  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    """Reads strictly, writes whole or nothing."""
    args = cli.options(ConvertOptions, argv, "python -m ldm.convert", __doc__)
    if args.target.exists():
        raise UserError(f"{args.target}: is there already; delete it or choose another name")
    from egogen.files import atomic_folder
    from ldm.checkpoints.diffusers_folder import INDEX, architecture_of
    from ldm.checkpoints.source import load_parts
    from ldm.checkpoints.stated_sizes import guidance_of, resolution_of
    from ldm.checkpoints.writing import SUFFIXES, published_state, write
    from ldm.networks.scales import bake, distilled_of
    from ldm.pipeline import LegoPipeline

    if args.way == "compvis2diffusers":
        if args.source.is_dir():
            raise UserError(f"{args.source}: is a folder; expected a .ckpt or .safetensors file")
        pipeline = LegoPipeline.from_single_file(args.source, args.config, use_ema=not args.no_ema)
        if args.bake:
            bake(pipeline.unet, *args.bake)
        with atomic_folder(args.target) as part, writing(args.target):
            save = pipeline.save_instruct_pix2pix if args.stock else pipeline.save_pretrained
            save(part)
    else:
        if not (args.source / INDEX).is_file():
            raise UserError(f"{args.source}: no {INDEX} here; expected a diffusers pipeline folder")
        if args.target.suffix not in SUFFIXES:
            raise UserError(f"{args.target}: expected a name that ends in .ckpt or .safetensors")
        parts = load_parts(args.source)
        if args.bake:
            bake(parts.unet, *args.bake)
        shape = architecture_of(parts)
        write(
            args.target,
            published_state(parts, shape),
            shape,
            resolution_of(parts),
            distilled_of(parts.unet),
            guidance_of(parts),
        )
    log.info("wrote %s", args.target)


if __name__ == "__main__":
    cli.run(main)
