"""What CLIP is shown of a frame and which of its states are patches: where stage 1 and stage 2 agree.

Spec: stage1-vllm-protocol, section 3: shortest edge by PIL's bicubic, centre crop; wide frames lose
their sides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32
from PIL import Image

from egogen.annotations import JsonObject, check_object
from egogen.errors import UserError
from egogen.files import read_json
from egogen.rgb import to_rgb

# CLIP's last layer but one; its first state is the class token, the others are the patches.
FEATURE_LAYER = -2
SETTINGS = "preprocessor_config.json"
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
STEPS = ("do_resize", "do_center_crop", "do_rescale", "do_normalize")


@dataclass(frozen=True)
class ClipPixels:
    """Prepares frames as the published code did, bit by bit (transformers' processor on PIL images).

    Args:
        edge: the shortest edge is resized to it, in pixels; torchvision's resize differs by a grey level.
        side: of the centre crop, at most `edge`.
        mean: of CLIP's training images, by channel.
        std: their standard deviation.
        factor: of the bytes.
        resample: PIL's number of the filter.
    """

    edge: int
    side: int
    mean: tuple[float, ...] = CLIP_MEAN
    std: tuple[float, ...] = CLIP_STD
    factor: float = 1 / 255
    resample: int = Image.Resampling.BICUBIC

    def __call__(self, frame: Image.Image) -> Float32[np.ndarray, "3 s s"]:
        """CLIP's input of a frame."""
        frame = to_rgb(frame, "image")
        short = min(frame.size)
        width, height = (int(self.edge * length / short) for length in frame.size)
        resized = frame.resize((width, height), Image.Resampling(self.resample))
        left, top = (width - self.side) // 2, (height - self.side) // 2
        cropped = np.array(resized)[top : top + self.side, left : left + self.side]  # s s 3
        scaled = (cropped * np.float64(self.factor)).astype(np.float32)
        normal = (scaled - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
        return np.ascontiguousarray(normal.transpose(2, 0, 1))  # 3 s s

    @classmethod
    def parse(cls, raw: JsonObject, where: Path | str) -> ClipPixels:
        """Reads the settings of a CLIP image processor, old and new forms.

        Raises:
            UserError: they ask for another preparation than CLIP's.
        """
        left_out = [step for step in STEPS if not raw.get(step, True)]
        if left_out:
            raise UserError(
                f"{where}: {left_out[0]} is false; expected CLIP's own preparation, with all steps"
            )
        try:
            size, crop = raw["size"], raw["crop_size"]
            crop = crop if isinstance(crop, Mapping) else {"height": crop, "width": crop}
            made = cls(
                edge=int(size["shortest_edge"] if isinstance(size, Mapping) else size),
                side=int(crop["height"]),
                mean=tuple(raw.get("image_mean", CLIP_MEAN)),
                std=tuple(raw.get("image_std", CLIP_STD)),
                factor=float(raw.get("rescale_factor", 1 / 255)),
                resample=int(raw.get("resample", Image.Resampling.BICUBIC)),
            )
            Image.Resampling(made.resample)
        except (KeyError, TypeError, ValueError) as error:
            reason = f"no {error.args[0]!r}" if isinstance(error, KeyError) else str(error)
            raise UserError(f"{where}: not the settings of CLIP's image processor ({reason})") from None
        if (
            not 0 < made.side <= made.edge
            or made.side != crop["width"]
            or {len(made.mean), len(made.std)} != {3}
        ):
            raise UserError(
                f"{where}: size {size}, crop_size {crop}, {len(made.mean)} means; expected a shortest edge, "
                "a square crop no larger than it, and three channels"
            )
        return made


def read_clip_pixels(folder: Path, side: int) -> ClipPixels:
    """The preparation that a CLIP folder asks for or, without a preprocessor_config.json, CLIP's usual one.

    Args:
        folder: a CLIP, or a checkpoint that holds one.
        side: height and width that the vision tower takes, in pixels.

    Raises:
        UserError: preprocessor_config.json cannot be read, or crops to another size.
    """
    path = folder / SETTINGS
    if not path.is_file():
        return ClipPixels(side, side)
    made = ClipPixels.parse(check_object(read_json(path), f"{path}", "settings by name"), path)
    if made.side != side:
        raise UserError(f"{path}: crops to {made.side}, the vision tower takes {side} x {side}")
    return made
