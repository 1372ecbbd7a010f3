"""How frames come to the size of a network: as the published table did it, and with antialiasing."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional


def resize(
    images: Float[Tensor, "b c h w"], height: int, width: int, mode: str, antialias: bool
) -> Float[Tensor, "b c h2 w2"]:
    """Resizes frames by `bilinear` or `bicubic`, which may leave their range.

    The published code resized tensors without antialiasing throughout: torchvision 0.12 had none for them.
    """
    return functional.interpolate(
        images, size=(height, width), mode=mode, align_corners=False, antialias=antialias
    )


def cover(
    images: Float[Tensor, "b c h w"], side: int, mode: str, antialias: bool
) -> Float[Tensor, "b c s s"]:
    """Resizes the shorter side to `side`, then cuts the middle of the longer one.

    The longer side is rounded down, the cut's place to the nearest even number where it is halfway, both as
    in torchvision.
    """
    height, width = images.shape[-2:]
    if height <= width:
        images = resize(images, side, int(side * width / height), mode, antialias)
    else:
        images = resize(images, int(side * height / width), side, mode, antialias)
    top, left = (round((length - side) / 2) for length in images.shape[-2:])
    return images[..., top : top + side, left : left + side]


def normalize(
    images: Float[Tensor, "b 3 h w"], mean: tuple[float, float, float], std: tuple[float, float, float]
) -> Float[Tensor, "b 3 h w"]:
    """Subtracts each channel's mean and divides by its standard deviation."""
    return (images - images.new_tensor(mean)[:, None, None]) / images.new_tensor(std)[:, None, None]
