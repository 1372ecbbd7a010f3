"""16 or 32 bits: which the UNet and the VAE compute in, by what a device can do and what it costs a frame."""

from __future__ import annotations

from typing import NamedTuple

import torch

from ldm.diffusion.choices import Precision

# UNets that are narrower at their finest level are no faster in 16 bits on a CPU.
NARROWEST = 128


class Precisions(NamedTuple):
    """What each part computes in, `bf16` or `32`; the others compute in 32 bits."""

    unet: str
    vae: str


def choose_precisions(wanted: Precision, device: torch.device, width: int) -> Precisions:
    """What a setting means for drawing by a guided method.

    `auto` is `bf16` where it is faster: on a GPU that has it, and for wide networks on a CPU that multiplies
    it by tiles; else `32`. It is the UNet's; the VAE follows on such CPUs alone (F-S2-11).

    Args:
        wanted: the setting.
        device: where the networks run.
        width: channels of the UNet's finest level.
    """
    tiles = on_tiles(device)
    if wanted == "auto":
        on_gpu = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        wanted = "bf16" if on_gpu or (tiles and width >= NARROWEST) else "32"
    return Precisions(wanted, wanted if tiles else "32")


def on_tiles(device: torch.device) -> bool:
    """Whether a device is a CPU that multiplies 16-bit matrices by tiles."""
    return device.type == "cpu" and has_tiles()


def has_tiles() -> bool:
    """Whether the CPU multiplies 16-bit matrices by tiles (AMX), as torch finds it."""
    found: bool = torch.cpu._is_amx_tile_supported()
    return found


def dtype_of(precision: str) -> torch.dtype:
    """Torch's name of a precision."""
    return torch.bfloat16 if precision == "bf16" else torch.float32
