"""How frames are drawn, and what a drawer is asked; known without importing networks, which takes seconds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Generator, Tensor

from ldm.config.sections import GenerateConfig
from ldm.networks.precision import Precisions, choose_precisions
from ldm.sampling.method_names import GUIDED, PIPELINE


class Scales(NamedTuple):
    """Guidance scales of one folder of frames, for the methods in `GUIDED`."""

    text: float
    image: float


@dataclass
class Request:
    """A batch of frames to draw.

    `source` [b, 3, r, r] in [-1, 1]. `generators`: one a frame. `image_features` and `text_features`: of
    stage 1, where the method takes them.
    """

    source: Float[Tensor, "b 3 r r"]
    prompts: Sequence[str]
    generators: list[Generator]
    scales: Scales
    image_features: Float[Tensor, "b i d"] | None = None
    text_features: Float[Tensor, "b t d"] | None = None


Drawer = Callable[[Request], Tensor]  # decoded frames [b, 3, r, r], in about [-1, 1]


@dataclass(frozen=True)
class DrawingPlan:
    """How frames are drawn.

    `ckpt`: a file or folder; None for `copy`. `use_ema`: take the moving averages where the file has them.
    """

    method: str
    config: GenerateConfig
    ckpt: Path | None
    use_ema: bool
    device: torch.device

    @cached_property
    def precisions(self) -> Precisions:
        """What `sampling.precision` means on the device, for the checkpoint's sizes."""
        wanted = self.config.sampling.precision
        if self.method == PIPELINE:  # all of it
            whole = choose_precisions(wanted, self.device, 0).unet
            return Precisions(whole, whole)
        if self.method not in GUIDED or self.ckpt is None:  # 16 bits on CPUs were judged by guided frames
            return choose_precisions(wanted, self.device, 0)._replace(vae="32")
        from ldm.checkpoints.source import open_source

        shape = self.config.model.architecture or open_source(self.ckpt).sizes()
        return choose_precisions(wanted, self.device, shape.unet.channels[0])


def copy_frame(source: Image.Image, height: int, width: int) -> UInt8[np.ndarray, "h w 3"]:
    """The source frame itself at the size of a generated one: the simplest yardstick."""
    return np.array(source.convert("RGB").resize((width, height), Image.Resampling.BICUBIC))
