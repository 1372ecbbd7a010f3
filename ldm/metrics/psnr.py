"""Peak signal-to-noise ratio: how close the pixels are. Published; mean of the images' values in dB."""

from __future__ import annotations

import math

from jaxtyping import Float
from torch import Tensor

from ldm.metrics.accumulators import paired
from ldm.metrics.frames.protocol import check_shapes
from ldm.metrics.metric import Metric, Scale


def score(generated: Float[Tensor, "b 3 h w"], reference: Float[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
    """PSNR of each image, -10 log10(mean squared error) in dB, infinite for identical images.

    Both in [0, 1]. Source: the published evaluation (torchmetrics, data_range 1).

    Raises:
        ValueError: their shapes differ.
    """
    check_shapes(generated, reference)
    # Takes ten seconds to import, so a wrong argument or a finished run does not wait for it.
    from torchmetrics.functional.image import peak_signal_noise_ratio

    return peak_signal_noise_ratio(generated, reference, data_range=1.0, dim=(1, 2, 3), reduction="none")


METRIC = Metric(
    name="psnr",
    title="PSNR",
    scale=Scale(0.0, math.inf, "higher", "dB"),
    source="torchmetrics, data_range 1, mean of the images' values",
    libraries=("torchmetrics",),
    open=lambda _setting, _pairs, memory: paired(score, memory),
)
