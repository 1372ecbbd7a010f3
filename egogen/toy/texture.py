"""Low-contrast, smooth table textures: wood, cloth and stone."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from PIL import Image

from egogen.toy.palette import TableTop

Field = Float[np.ndarray, "h w"]

# One texture cell per this fraction of the frame height; finer detail would only be noise to a small network.
CELL = 1 / 48
CONTRAST = {"wood": 0.07, "cloth": 0.05, "stone": 0.045}


def table_image(table: TableTop, seed: int, width: int, height: int, unit: int) -> Image.Image:
    """Draws a table top.

    Args:
        table: texture and tone.
        seed: of this table's pattern.
        width: pixels.
        height: pixels.
        unit: pixels in one frame height; the pattern scales with it.
    """
    columns, rows = (int(np.ceil(length / (unit * CELL))) + 1 for length in (width, height))
    field = FIELDS[table.texture](np.random.default_rng(seed), rows, columns)
    tone = np.asarray(table.tone, np.float32)
    values = tone * (1 + CONTRAST[table.texture] * field[..., None])  # [h, w, 3]
    small = Image.fromarray(np.clip(values + 0.5, 0, 255).astype(np.uint8))
    covered = (0, 0, width / (unit * CELL), height / (unit * CELL))
    return small.resize((width, height), Image.Resampling.BILINEAR, box=covered)


def wood(rng: np.random.Generator, rows: int, columns: int) -> Field:
    """Boards of slightly different tones with dark joints and a wavy grain, -1 to 1."""
    y, x = np.arange(rows, dtype=np.float32)[:, None], np.arange(columns, dtype=np.float32)[None]
    board = 12.0
    offset = rng.uniform(0, board)
    tones = rng.uniform(-0.6, 0.6, int(rows / board) + 3).astype(np.float32)
    index = ((y + offset) / board).astype(int)
    joint = ((y + offset) % board < 1.0).astype(np.float32)
    wave = np.sin(x * rng.uniform(0.08, 0.14) + rng.uniform(0, 6) + index) * 1.2
    grain = np.sin((y + wave) * 1.6)
    return (tones[index] + 0.4 * grain - joint).astype(np.float32)


def cloth(rng: np.random.Generator, rows: int, columns: int) -> Field:
    """A check of wide bands, -1 to 1."""
    period = rng.uniform(9, 14)
    y = np.sin(np.arange(rows) * 2 * np.pi / period + rng.uniform(0, 6))[:, None]
    x = np.sin(np.arange(columns) * 2 * np.pi / period + rng.uniform(0, 6))[None]
    return (0.5 * (np.sign(y) + np.sign(x))).astype(np.float32)


def stone(rng: np.random.Generator, rows: int, columns: int) -> Field:
    """Soft blotches, about -1 to 1."""
    coarse = rng.uniform(-1, 1, (rows // 6 + 2, columns // 6 + 2)).astype(np.float32)
    blurred = Image.fromarray(coarse).resize((columns, rows), Image.Resampling.BICUBIC)
    return np.asarray(blurred, np.float32)


FIELDS = {"wood": wood, "cloth": cloth, "stone": stone}
