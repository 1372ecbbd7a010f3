"""How frames are chosen and written: what of the options makes a frame what it is."""

from __future__ import annotations

from typing import NamedTuple


class Look(NamedTuple):
    """How frames are chosen and written.

    Their height in pixels (the width keeps the aspect), the JPEG quality, 1 to 95, and of how many frames
    before and after the sharpest is taken.
    """

    size: int
    quality: int
    sharpest: int
