"""EgoVLP similarity: how alike an egocentric video model finds a frame and its target. Published."""

from __future__ import annotations

from functools import partial
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from ldm.metrics import metric_names as rules
from ldm.metrics.accumulators import cosine, features, similarity
from ldm.metrics.frames.resize import cover, normalize
from ldm.metrics.metric import COSINE, Metric, MetricSetting
from ldm.metrics.networks.metric_weights import EGOVLP

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
# Length of the still clips that frames become.
FRAMES = {"ego4d": 4, "epickitchen": 16}


@runtime_checkable
class VideoEncoder(Protocol):
    """What is asked of EgoVLP here."""

    @property
    def side(self) -> int:
        """Height and width of the frames it takes, in pixels."""

    def video(self, clips: Float[Tensor, "b f 3 s s"]) -> Float[Tensor, "b d"]:
        """Features of clips."""


def score(
    generated: Float[Tensor, "b 3 h1 w1"],
    reference: Float[Tensor, "b 3 h w"],
    network: VideoEncoder,
    frames: int,
    protocol: rules.Protocol = "published",
) -> Float[Tensor, " b"]:
    """Cosine between the video features of each pair, in [-1, 1]; 1 for identical images.

    Frames in [0, 1], each repeated to a still clip of `frames`: 4 on ego4d, 16 on epickitchen, as published.
    `network` by `ldm.metrics.networks.egovlp_model.load_egovlp`. Source: the published evaluation.
    """
    return cosine(*(embed(frames, network, images, protocol) for images in (generated, reference)))


def prepare(
    images: Float[Tensor, "b 3 h w"], side: int, protocol: rules.Protocol
) -> Float[Tensor, "b 3 s s"]:
    """Frames as the video tower takes them: the shorter side resized, the middle cut out, normalised."""
    return normalize(cover(images, side, "bilinear", antialias=protocol == "corrected"), MEAN, STD)


def still(images: Float[Tensor, "b 3 s s"], frames: int) -> Float[Tensor, "b f 3 s s"]:
    """Repeats each image."""
    return images[:, None].expand(-1, frames, -1, -1, -1)


def embed(
    frames: int, network: VideoEncoder, images: Float[Tensor, "b 3 h w"], protocol: rules.Protocol
) -> Float[Tensor, "b d"]:
    """Features of images as still clips."""
    return network.video(still(prepare(images, network.side, protocol), frames))


def open_network(setting: MetricSetting) -> Any:  # noqa: ANN401 - an EgoVLP, imported only when it is needed
    """The data set's network, loaded once an evaluation."""
    # Takes seconds to import, so a wrong argument does not wait for it.
    from ldm.metrics.networks.egovlp_model import load_egovlp

    frames = FRAMES[setting.dataset]
    return setting.network(EGOVLP[setting.dataset], lambda path, device: load_egovlp(path, frames, device))


METRIC = Metric(
    name="egovlp",
    title="EgoVLP",
    scale=COSINE,
    source="cosine of EgoVLP's video features of still clips, 4 frames on ego4d, 16 on epickitchen",
    libraries=("torch",),
    open=lambda setting, _, memory: similarity(
        features(setting, memory, open_network(setting), partial(embed, FRAMES[setting.dataset]))
    ),
    weights=lambda setting: (EGOVLP[setting.dataset],),
)
