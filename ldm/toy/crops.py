"""Parts of the toy world's frames, enlarged: where an object fills the picture, its words are soon learnt.

In whole frames objects are a few latents large. Networks that see nothing else copy them well, and draw those
that move in any colour: after 30,000 pairs the texts' colours still made no difference.
"""

from __future__ import annotations

from random import Random

import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor

from egogen.annotations import JsonObject, read_metadata
from egogen.boxes import Box
from egogen.conversations import read_conversations
from egogen.errors import UserError
from egogen.frames import read_frame
from egogen.layout import Layout
from ldm.networks.pixels import to_model

CLOSE = (1.0, 2.2)  # sides of a close-up, in sides of its object
ZOOM = (0.3, 0.7)  # sides of a zoomed pair, in sides of the frame
NEEDED = {"object", "object_colour", "object_box_0", "object_box_1", "width", "height"}
Part = tuple[float, float, float, float]  # left, top, right and bottom, in pixels
OFF_CENTRE = 0.2  # how far from the middle the object may be, in sides of the part


def close_ups(layout: Layout, resolution: int, seed: int) -> tuple[Float[Tensor, "n 3 r r"], list[str]]:
    """Each curated action's object before the action, large, and a caption such as `the red cup`."""
    rng = Random(seed)  # noqa: S311 - pictures
    frames, captions = [], []
    for image, facts in curated(layout):
        box = Box.model_validate(facts["object_box_0"])
        size = rng.uniform(*CLOSE) * max(box.width / facts["width"], box.height / facts["height"])
        part = part_around(box, facts, size, rng)
        frames.append(enlarge(layout, image, part, resolution))
        captions.append(f"the {facts['object_colour']} {facts['object']}")
    return torch.stack(frames), captions


def zoomed(layout: Layout, resolution: int, seed: int) -> Float[Tensor, "n2 3 r r"]:
    """Source frames, then target frames, of the curated actions, each pair cut to where the action ends."""
    rng = Random(seed)  # noqa: S311 - pictures
    sources, targets = [], []
    for image, facts in curated(layout):
        part = part_around(Box.model_validate(facts["object_box_1"]), facts, rng.uniform(*ZOOM), rng)
        sources.append(enlarge(layout, image, part, resolution))
        targets.append(enlarge(layout, target_of(layout, image), part, resolution))
    return torch.stack(sources + targets)


def objects(layout: Layout, side: int) -> Bool[Tensor, "n 1 s s"]:
    """Where each curated action's object is, before or after, on a square grid laid over the frame."""
    found = []
    for _, facts in curated(layout):
        grid = torch.zeros(1, side, side, dtype=torch.bool)
        for box in (Box.model_validate(facts[name]) for name in ("object_box_0", "object_box_1")):
            rows = cells(box.y / facts["height"], (box.y + box.height) / facts["height"], side)
            columns = cells(box.x / facts["width"], (box.x + box.width) / facts["width"], side)
            grid[:, rows, columns] = True
        found.append(grid)
    return torch.stack(found)


def cells(low: float, high: float, side: int) -> slice:
    """The cells of a row of `side` that an interval of 0 to 1 covers by half; at least one."""
    first = min(round(low * side), side - 1)
    return slice(first, max(round(high * side), first + 1))


def curated(layout: Layout) -> list[tuple[str, JsonObject]]:
    """The curated actions: source frame and facts.

    Raises:
        UserError: the metadata do not say where a clip's object is, as those of the toy world do.
    """
    metadata = read_metadata(layout.metadata)
    images = [record.image or "" for record in read_conversations(layout.conversations)]
    found = []
    for image in images:
        clip = image.split("/")[0]
        facts = metadata[clip].model_dump() if clip in metadata else {}
        if missing := sorted(NEEDED - facts.keys()):
            raise UserError(
                f"{layout.metadata}: clip {clip!r} has no {', '.join(missing)}; expected a toy world by "
                "python -m egogen.toy"
            )
        found.append((image, facts))
    return found


def target_of(layout: Layout, image: str) -> str:
    """The target frame of a source frame: in the EgoGen layout the last file of the action's folder."""
    folder = layout.frames("train")
    last = max(path for path in (folder / image).parent.iterdir() if path.is_file())
    return str(last.relative_to(folder))


def part_around(box: Box, facts: JsonObject, size: float, rng: Random) -> Part:
    """A part of a frame around a box."""
    size = min(1.0, size)
    width, height = size * facts["width"], size * facts["height"]
    left = box.x + box.width / 2 + (rng.uniform(-OFF_CENTRE, OFF_CENTRE) - 0.5) * width
    top = box.y + box.height / 2 + (rng.uniform(-OFF_CENTRE, OFF_CENTRE) - 0.5) * height
    left = min(max(0.0, left), facts["width"] - width)
    top = min(max(0.0, top), facts["height"] - height)
    return left, top, left + width, top + height


def enlarge(layout: Layout, image: str, part: Part, resolution: int) -> Float[Tensor, "3 r r"]:
    """A part of a train frame, squashed to a square."""
    frame = read_frame(layout.frames("train") / image)
    return to_model(frame.resize((resolution, resolution), Image.Resampling.BILINEAR, box=part), resolution)
