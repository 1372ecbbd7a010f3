"""Structural similarity: how alike local means, contrasts and patterns are. Not in the published table."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from ldm.metrics.accumulators import paired
from ldm.metrics.metric import Metric, Scale

# The Gaussian window reaches this many pixels beyond a border; images are mirrored by as many.
RADIUS = 5


def score(generated: Float[Tensor, "b 3 h w"], reference: Float[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
    """SSIM of each image, in [-1, 1]; 1 for identical images.

    Both in [0, 1]. Gaussian window with sigma 1.5 over 11 x 11 pixels, K1 0.01, K2 0.03, mean over
    channels and all pixels. Source: Wang et al., 2004, as in torchmetrics.

    Raises:
        ValueError: a side has fewer than 6 pixels.
    """
    return ssim_map(generated, reference).flatten(1).mean(1)


def ssim_map(
    generated: Float[Tensor, "b 3 h w"], reference: Float[Tensor, "b 3 h w"]
) -> Float[Tensor, "b 3 h w"]:
    """SSIM of each pixel's window and channel, of which `score` is the mean; raises as that."""
    if min(generated.shape[-2:]) <= RADIUS:
        height, width = generated.shape[-2:]
        raise ValueError(
            f"images of {width}x{height} pixels: SSIM needs at least {RADIUS + 1} along each side"
        )
    # Takes ten seconds to import, so a wrong argument or a finished run does not wait for it.
    from torchmetrics.functional.image import structural_similarity_index_measure

    _, values = structural_similarity_index_measure(
        generated, reference, data_range=1.0, reduction="none", return_full_image=True
    )
    assert isinstance(values, Tensor)
    return values


METRIC = Metric(
    name="ssim",
    title="SSIM",
    scale=Scale(-1.0, 1.0, "higher"),
    source="torchmetrics, Gaussian window with sigma 1.5, data_range 1",
    libraries=("torchmetrics",),
    open=lambda _setting, _pairs, memory: paired(score, memory),
)
