"""A distilled checkpoint, for one pair of guidance scales, as a plain InstructPix2Pix one."""

from __future__ import annotations

import logging
from pathlib import Path

from ldm.checkpoint_writer import check_target, write_checkpoint
from ldm.checkpoints.source import load_parts
from ldm.networks.scales import bake

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
    check_target(target, stock)
    parts = load_parts(source, use_ema=use_ema)
    bake(parts.unet, text, image)
    write_checkpoint(parts, target, stock)
    log.info("wrote %s", target)
