"""Is the right hand-object event visible in a frame? Judged from pixels alone; a step of `ldm.evaluate`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image
from pydantic import BaseModel, ConfigDict

from egogen.annotations import ClipMetadata, validate
from egogen.boxes import Box
from egogen.toy.palette import COLOURS, FLESH, INSIDE, PAPER, RGB, SKINS, STEEL, WATER, mix, shade

# Frames of any size are judged at this height, in pixels; noise and JPEG blocks average out.
JUDGED_HEIGHT = 64
# How far a share must have gone from its value without the event to its value with it. Blurred frames pass,
# and of mirrored targets and those of other clips fewer than one in a hundred.
REQUIRED_PART = 0.25
# Luminance tells less than hue: shading and camera change it. Rows: luminance, red-cyan, blue-yellow.
TO_HUE = np.array(
    [[0.18, 0.35, 0.07], [0.75, -0.60, -0.15], [-0.30, -0.55, 0.85]],
    np.float32,
)
# A colour further away than this from every known one is unknown.
MAX_DISTANCE = 70.0


class Sign(BaseModel):
    """A colour in a box, with the share of the box that it covers without and with the event, 0 to 1."""

    model_config = ConfigDict(frozen=True)

    what: str
    colour: RGB
    box: Box
    without: float
    share: float

    def holds(self, found: float) -> bool:
        """Whether a found share is far enough on the event's side."""
        progress = (found - self.without) / (self.share - self.without)
        return progress >= REQUIRED_PART


class ToyFacts(BaseModel):
    """What `success` reads of a clip's metadata."""

    height: int
    width: int
    skin: RGB
    sleeve: RGB
    table: RGB
    signs: list[Sign]


def success(
    frame: Image.Image | UInt8[np.ndarray, "h w 3"], metadata: Mapping[str, object] | ClipMetadata
) -> bool:
    """Judges whether a frame shows the clip's hand-object event.

    The frame is scaled to 64 pixels of height (any size and shape is taken; boxes scale with it). Every pixel
    gets the nearest of the world's colours: the eight object colours, skin, the clip's sleeve and table, and
    the neutral colours of blades, pages, water and dark insides, each also in shade, by a distance in which
    hue counts more than brightness; a pixel far from all of them gets none. For each sign of the metadata the
    share of its box that has its colour is compared with two known shares: without the event and in the true
    target. The event is visible if for every sign the share has gone a quarter of the way from the one to the
    other. The signs are

    - the acting hand is at its new place, beside the object;
    - the object is at its new place;
    - the acting hand has left the place where it was;
    - the object has left its old place, if it moves away from it;
    - an inside, pages, a cap, flesh, water or a wet streak have come or gone.

    Args:
        frame: a picture, or its pixels [h, w, 3], 0 to 255.
        metadata: the clip's entry of `{dataset}_metadata.json`.

    Raises:
        UserError: the metadata is not that of a toy clip.
    """
    return all(signs_seen(frame, metadata).values())


def signs_seen(
    frame: Image.Image | UInt8[np.ndarray, "h w 3"], metadata: Mapping[str, object] | ClipMetadata
) -> dict[str, bool]:
    """Which signs of the event are visible, by what they are; see `success`.

    Raises:
        UserError: the metadata is not that of a toy clip.
    """
    entry = metadata.model_dump() if isinstance(metadata, ClipMetadata) else dict(metadata)
    facts = validate(ToyFacts, entry, "toy metadata")
    image = frame if isinstance(frame, Image.Image) else Image.fromarray(frame)
    scale = JUDGED_HEIGHT / facts.height
    pixels = judged(image, facts.width, facts.height)
    known = Known(facts.skin, facts.sleeve, facts.table)
    return {sign.what: sign.holds(known.share(pixels, sign.colour, sign.box, scale)) for sign in facts.signs}


def judged(image: Image.Image, width: int, height: int) -> Float32[np.ndarray, "64 w 3"]:
    """Scales a frame to the height at which it is judged, in the aspect of the clip."""
    size = round(width * JUDGED_HEIGHT / height), JUDGED_HEIGHT
    small = image.convert("RGB").resize(
        size, Image.Resampling.BOX if image.height > JUDGED_HEIGHT else Image.Resampling.BILINEAR
    )
    return np.asarray(small, np.float32)


class Known:
    """The colours that a pixel may have: the clip's own, and those of the world."""

    def __init__(self, skin: RGB, sleeve: RGB, table: RGB) -> None:
        shades: list[tuple[RGB, RGB]] = [(sleeve, sleeve)]
        # A hand is a hand in anybody's skin.
        shades += [(skin, shade(tone, factor)) for tone in (skin, *SKINS) for factor in (0.85, 1.0)]
        shades += [(table, shade(table, factor)) for factor in (0.78, 0.9, 1.0, 1.1)]
        for colour in COLOURS.values():
            shades += [(colour, shade(colour, factor)) for factor in (0.75, 1.0, 1.3)]
            # On the object's border, in coarse or blurred frames.
            shades += [(colour, mix(colour, other)) for other in (table, INSIDE)]
        shades += [(colour, colour) for colour in (INSIDE, STEEL, PAPER, FLESH, WATER)]
        shades.append((WATER, shade(WATER, 0.8)))
        self.names = [name for name, _ in shades]
        self.points = np.array([colour for _, colour in shades], np.float32) @ TO_HUE.T  # [n, 3]
        self.squares = (self.points * self.points).sum(1)  # [n]

    def share(
        self, pixels: Float32[np.ndarray, "h w 3"], colour: Sequence[int], box: Box, scale: float
    ) -> float:
        """The share of a box's pixels whose nearest colour is the given known one.

        The box is in pixels of the metadata's frame, `scale` of whose pixels are one here.
        """
        left, top = max(0, round(box.x * scale)), max(0, round(box.y * scale))
        right, bottom = round((box.x + box.width) * scale), round((box.y + box.height) * scale)
        part = pixels[top : max(bottom, top + 1), left : max(right, left + 1)].reshape(-1, 3) @ TO_HUE.T
        # |p - q|^2 = p.p - 2 p.q + q.q
        away = (part * part).sum(1)[:, None] - 2 * part @ self.points.T + self.squares  # [pixels, n]
        nearest = away.argmin(1)
        own = np.array([name == tuple(colour) for name in self.names])
        hits = own[nearest] & (away.min(1) <= MAX_DISTANCE**2)
        return float(hits.mean()) if len(hits) else 0.0
