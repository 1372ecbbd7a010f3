"""Networks into a checkpoint of the kind that its name asks for: a published file or a diffusers folder."""

from __future__ import annotations

from pathlib import Path

from egogen.disk import writing
from egogen.errors import UserError
from egogen.files import atomic_folder
from ldm.checkpoints.diffusers_folder import architecture_of
from ldm.checkpoints.stated_sizes import guidance_of, resolution_of
from ldm.checkpoints.writing import SUFFIXES, published_state, write
from ldm.networks.architecture import Parts
from ldm.networks.scales import distilled_of
from ldm.pipeline import LegoPipeline


def check_target(target: Path, stock: bool = False) -> None:
    """Raises a `UserError` for what is there already, or a stock pipeline that is to be a file."""
    if target.exists():
        raise UserError(f"{target}: is there already; delete it or choose another name")
    if stock and target.suffix.lower() in SUFFIXES:
        raise UserError(f"{target}: --stock writes a folder; choose a name without such a suffix")


def write_checkpoint(parts: Parts, target: Path, stock: bool = False) -> None:
    """Writes all networks, whole or nothing.

    Args:
        parts: the networks.
        target: a name that ends in .ckpt or .safetensors is a published file, any other a diffusers folder.
        stock: of a folder, a stock InstructPix2Pix pipeline with the conditioner beside it.
    """
    if target.suffix.lower() in SUFFIXES:
        shape, state = architecture_of(parts), published_state(parts, architecture_of(parts))
        write(target, state, shape, resolution_of(parts), distilled_of(parts.unet), guidance_of(parts))
        return
    pipeline = LegoPipeline.from_parts(parts)
    with atomic_folder(target) as part, writing(target):
        save = pipeline.save_instruct_pix2pix if stock else pipeline.save_pretrained
        save(part)
