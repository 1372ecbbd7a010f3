"""What a run would take, said by `--dry-run` before it is begun."""

from __future__ import annotations

import numpy as np

from egogen.prepare.frames.extract import Look
from egogen.prepare.pair_plan import PairPlan

# Bytes a pixel of 50 kitchen frames of 456 x 256, by JPEG quality, at full colour resolution.
QUALITIES = (10, 50, 75, 85, 90, 95)
BYTES_PER_PIXEL = (0.054, 0.124, 0.17, 0.221, 0.261, 0.346)
ASPECT = 16 / 9


def estimate(plan: PairPlan, look: Look) -> str:
    """Sources, frames and bytes of a plan; frames are taken to be 16:9."""
    kept = plan.kept()
    sources = {pair.files for pair in kept}
    frames = sum(3 if pair.split == "val" else 2 for pair in kept)
    pixels = look.size * look.size * ASPECT
    size = frames * pixels * float(np.interp(look.quality, QUALITIES, BYTES_PER_PIXEL))
    return (
        f"{len(kept):,} pairs of {len(sources):,} sources: {frames:,} JPEG files, about {size / 1e9:.2f} GB; "
        "nothing was written (--dry-run)"
    )
