"""Settings of low-rank adapters: those that a run trains, and files that a drawing adds. No torch."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Literal, get_args

from pydantic import Field
from pydantic.dataclasses import dataclass

from ldm.config.ranges import NUMBER, SECTION, Number, PathText, Positive

# Layers of the UNet by the ends of diffusers' names, as peft takes them: attention, feed-forward, what is
# around them, residual blocks, the first and the last convolution, the timestep.
Target = Literal[
    "to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out", "conv1", "conv2",
    "conv_shortcut", "time_emb_proj", "downsamplers.0.conv", "upsamplers.0.conv", "conv_in", "conv_out",
    "linear_1", "linear_2",
]  # fmt: skip
FIRST: Target = "conv_in"  # sees the source frame
Targets = Annotated[
    list[Target],
    Field(min_length=1, description=f"a list with at least one of {', '.join(get_args(Target))}"),
]


@dataclass(frozen=True, config=SECTION)
class LoraConfig:
    """Adapters of the UNet (Hu et al. 2022): W + alpha / rank B A, of which A and B are trained."""

    rank: Annotated[int, NUMBER, Field(ge=1, le=4096)] = 32  # rows of A, columns of B
    alpha: Positive = 32.0  # divided by the rank, how much the adapters count
    # Layers that have adapters, by the ends of their names.
    targets: Targets = field(default_factory=lambda: ["to_q", "to_k", "to_v", "to_out.0", FIRST])


@dataclass(frozen=True, config=SECTION)
class LoraFile:
    """A finished LoRA that is added to the weights a drawing is made with."""

    path: PathText  # a file, or a folder of peft
    weight: Number = 1.0  # how much of it
