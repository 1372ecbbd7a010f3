"""Converts checkpoints: published single files to diffusers folders, and back; adapters to whole ones."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from egogen import cli
from egogen.cli import flag
from egogen.errors import UserError, check

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ConvertOptions:
    """The command's arguments."""

    way: str = flag(
        "compvis2diffusers: SRC.ckpt (Stable Diffusion 1.5, InstructPix2Pix, LEGO, or one of our trainings)"
        " to DST/; diffusers2compvis: SRC/ to DST.ckpt or DST.safetensors; merge: any checkpoint, of a "
        "training of adapters too, and --lora to a whole one, a file or a folder as DST says; lora: a "
        "checkpoint of such a training to DST/ with the LoRA file that diffusers loads",
        positional=True, choices=["compvis2diffusers", "diffusers2compvis", "merge", "lora"],
    )  # fmt: skip
    source: Path = flag("the checkpoint to read", positional=True, type=Path, metavar="SRC")
    target: Path = flag("what to write; must not exist", positional=True, type=Path, metavar="DST")
    config: Path | None = flag("YAML with what no tensor tells, such as the UNet's heads", type=Path)
    no_ema: bool = flag("the last weights, not their moving average", action="store_true")
    bake: list[float] | None = flag(
        "of a distilled checkpoint: fixes the guidance by text and features, and by the frame; the result is "
        "a plain InstructPix2Pix", nargs=2, type=float, metavar=("W_T", "W_I"),
    )  # fmt: skip
    lora: list[Path] = flag("of merge: LoRA files to add", type=Path, nargs="+", default=[], metavar="FILE")
    stock: bool = flag(
        "write a stock InstructPix2Pix pipeline, which diffusers loads without this package, and beside it "
        "the conditioner", action="store_true",
    )  # fmt: skip

    def __post_init__(self) -> None:
        check("--lora", [*self.lora], "none but with merge", not self.lora or self.way == "merge")
        for name, given in (("--config", self.config), ("--bake", self.bake), ("--stock", self.stock)):
            check(
                name,
                given,
                "none with lora, which writes the adapters alone",
                not given or self.way != "lora",
            )


def main(argv: Sequence[str] | None = None) -> None:
    """Reads strictly, writes whole or nothing."""
    args = cli.options(ConvertOptions, argv, "python -m ldm.convert", __doc__)
    from ldm.checkpoint_writer import check_target, write_checkpoint
    from ldm.checkpoints.diffusers_folder import INDEX
    from ldm.checkpoints.lora_files import apply_loras
    from ldm.checkpoints.lora_run import export
    from ldm.checkpoints.source import load_parts
    from ldm.checkpoints.writing import SUFFIXES
    from ldm.config.lora import LoraFile
    from ldm.networks.scales import bake

    check_target(args.target, args.stock)
    is_file = args.target.suffix.lower() in SUFFIXES
    if args.way == "compvis2diffusers" and args.source.is_dir():
        raise UserError(f"{args.source}: is a folder; expected a .ckpt or .safetensors file")
    if args.way == "diffusers2compvis" and not (args.source / INDEX).is_file():
        raise UserError(f"{args.source}: no {INDEX} here; expected a diffusers pipeline folder")
    if args.way == "diffusers2compvis" and not is_file:
        raise UserError(f"{args.target}: expected a name that ends in .ckpt or .safetensors")
    if args.way in ("compvis2diffusers", "lora") and is_file:
        raise UserError(f"{args.target}: is to be a folder; choose a name without such a suffix, or merge")
    if args.way == "lora":
        export(args.source, args.target, not args.no_ema)
        return
    parts = load_parts(args.source, args.config, not args.no_ema)
    apply_loras(parts, [LoraFile(f"{path}") for path in args.lora], args.source)
    if args.bake:
        bake(parts.unet, *args.bake)
    write_checkpoint(parts, args.target, args.stock)
    log.info("wrote %s", args.target)


if __name__ == "__main__":
    cli.run(main)
