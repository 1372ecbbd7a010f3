"""Draws a picture with Pillow, three times too large, and averages it down; tables of smooth textures."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw

from egogen.toy.palette import RGB, TableTop, shade
from egogen.toy.pen import Pen
from egogen.toy.picture import HAND_SIZE, Hand, Picture, Sprite
from egogen.toy.scene import SIGN, Scene
from egogen.toy.sprites import SPRITES

Field = Float[np.ndarray, "h w"]

# One texture cell per this fraction of the frame height; finer detail would only be noise to a small network.
CELL = 1 / 48
CONTRAST = {"wood": 0.07, "cloth": 0.05, "stone": 0.045}

OVERSAMPLING = 3
# Most that the camera moves between the two frames, in frame heights.
MAX_SHIFT = 0.012
FINGERS = (-0.26, -0.09, 0.08, 0.25)
ELBOW_X, ELBOW_Y = 0.46, 1.25
# From the palm to the sleeve's end; half the sleeve's width there and at the elbow.
CUFF, WRIST, ELBOW = 0.52 * HAND_SIZE, 0.25 * HAND_SIZE, 0.40 * HAND_SIZE


def frame_width(height: int) -> int:
    """Width of a 16:9 frame in pixels."""
    return round(height * 16 / 9)


class Renderer:
    """Draws the frames of one scene, `height` pixels high; they share table, skin and sleeves."""

    def __init__(self, scene: Scene, height: int) -> None:
        self.scene = scene
        self.height, self.width = height, frame_width(height)
        self.unit = height * OVERSAMPLING
        self.margin = math.ceil(MAX_SHIFT * self.unit)
        wide, high = self.width * OVERSAMPLING + 2 * self.margin, self.unit + 2 * self.margin
        self.table = table_image(scene.table, scene.texture_seed, wide, high, self.unit)

    def draw(self, picture: Picture) -> Image.Image:
        """Draws a frame [height, width] in RGB."""
        dx, dy = (round(part * self.unit) for part in picture.shift)
        left, top = self.margin - dx, self.margin - dy
        canvas = self.table.crop((left, top, left + self.width * OVERSAMPLING, top + self.unit))
        centre = self.width * OVERSAMPLING / 2
        unit = float(self.unit)
        pen = Pen(ImageDraw.Draw(canvas), unit, 0.0, 0.0, unit, centre + dx, float(dy))
        for sprite in picture.table:
            draw_sprite(pen, sprite)
        for hand in picture.hands:
            draw_arm(pen, hand, self.scene.skin, self.scene.sleeve)
        for sprite in picture.held:
            draw_sprite(pen, sprite)
        for hand in picture.hands:
            draw_fingers(pen, hand, self.scene.skin)
        return canvas.reduce(OVERSAMPLING)


def draw_sprite(pen: Pen, sprite: Sprite) -> None:
    """Draws one sprite."""
    own = pen.at(sprite.x, sprite.y, sprite.size, sprite.angle, mirror=sprite.handle == "left")
    SPRITES[sprite.look](own, sprite.colour)


def hand_pen(pen: Pen, hand: Hand) -> Pen:
    """A pen at the palm, in hand sizes, fingers upwards, thumb to the left."""
    return pen.at(hand.x, hand.y, HAND_SIZE, hand.angle, mirror=hand.side == "left")


def draw_arm(pen: Pen, hand: Hand, skin: RGB, sleeve: RGB) -> None:
    """Draws the sleeve, the wrist, the palm and the thumb."""
    # The wrist lies behind the palm, against the fingers' direction.
    sin, cos = math.sin(hand.angle), math.cos(hand.angle)
    cuff = hand.x - CUFF * sin, hand.y + CUFF * cos
    elbow_x = SIGN[hand.side] * ELBOW_X
    along = math.hypot(elbow_x - cuff[0], ELBOW_Y - cuff[1])
    nx, ny = (ELBOW_Y - cuff[1]) / along, -(elbow_x - cuff[0]) / along
    for half, colour in ((1.0, shade(sleeve, 0.8)), (0.72, sleeve)):
        wrist, elbow = WRIST * half, ELBOW * half
        pen.disc(*cuff, wrist, wrist, colour)
        pen.polygon(
            [
                (cuff[0] + nx * wrist, cuff[1] + ny * wrist),
                (elbow_x + nx * elbow, ELBOW_Y + ny * elbow),
                (elbow_x - nx * elbow, ELBOW_Y - ny * elbow),
                (cuff[0] - nx * wrist, cuff[1] - ny * wrist),
            ],
            colour,
        )
    own = hand_pen(pen, hand)
    own.stroke((0.0, 0.42), (0.0, 0.10), 0.36, skin)
    own.stroke((-0.22, 0.20), (-0.46, -0.14), 0.17, shade(skin, 0.9))
    own.disc(0.0, 0.05, 0.37, 0.34, skin)


def draw_fingers(pen: Pen, hand: Hand, skin: RGB) -> None:
    """Draws four fingers with gaps that show."""
    own = hand_pen(pen, hand)
    for index, x in enumerate(FINGERS):
        reach = -0.46 if index in (0, 3) else -0.54
        own.stroke((x, -0.05), (x * 1.2, reach), 0.19, shade(skin, 0.8))
        own.stroke((x, 0.0), (x * 1.2, reach + 0.01), 0.135, skin)


def table_image(table: TableTop, seed: int, width: int, height: int, unit: int) -> Image.Image:
    """Draws a table top in pixels; the pattern scales with `unit`, the pixels in one frame height."""
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
