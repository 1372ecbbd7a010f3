"""A distilled checkpoint, for one pair of guidance scales, as a plain InstructPix2Pix one."""

from __future__ import annotations

import logging
from pathlib import Path

from egogen.disk import writing
from egogen.errors import UserError
from egogen.files import atomic_folder
from ldm.checkpoints.diffusers_folder import architecture_of
from ldm.checkpoints.source import load_parts
from ldm.checkpoints.stated_sizes import resolution_of
from ldm.checkpoints.writing import SUFFIXES, published_state, write
from ldm.networks.scales import bake, distilled_of
from ldm.pipeline import LegoPipeline

log = logging.getLogger(__name__)


def bake_checkpoint(
    source: Path, target: Path, text: float, image: float, use_ema: bool = True, stock: bool = False
) -> None:
    """Reads strictly, bakes, writes whole or nothing.

    Args:
        source: distilled checkpoint, a file or a diffusers folder.
        target: its suffix chooses a published file, else it is a diffusers folder.
        text: w_T.
        image: w_I.
        use_ema: take the moving averages where the file has them.
        stock: of a folder, a stock InstructPix2Pix pipeline with the conditioner beside it.

    Raises:
        UserError: the target is there; the source takes no scales, or was not trained for these.
    """
    is_file = target.suffix in SUFFIXES
    if target.exists():
        raise UserError(f"{target}: is there already; delete it or choose another name")
    if stock and is_file:
        raise UserError(f"{target}: --stock writes a folder; choose a name without such a suffix")
    parts = load_parts(source, use_ema=use_ema)
    bake(parts.unet, text, image)
    if is_file:
        shape = architecture_of(parts)
        write(target, published_state(parts, shape), shape, resolution_of(parts), distilled_of(parts.unet))
    else:
        pipeline = LegoPipeline.from_parts(parts)
        with atomic_folder(target) as part, writing(target):
            save = pipeline.save_instruct_pix2pix if stock else pipeline.save_pretrained
            save(part)
    log.info("wrote %s", target)
