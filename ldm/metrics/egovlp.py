"""EgoVLP similarity: how alike an egocentric video model finds a frame and its target. Published."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from ldm.metrics.feature_cache import Memory
from ldm.metrics.frames import protocol as rules
from ldm.metrics.frames.frame_pairs import Batch, Pairs, Side
from ldm.metrics.frames.resize import cover, normalize
from ldm.metrics.metric import Accumulator, Metric, Setting
from ldm.metrics.networks.weight_files import EGOVLP
from ldm.metrics.similarity import Similarity, cosine

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

    Args:
        generated: in [0, 1].
        reference: in [0, 1].
        network: by `ldm.metrics.networks.egovlp_model.load_egovlp`.
        frames: length of a clip; 4 on ego4d and 16 on epickitchen, as published.
        protocol: how frames are resized.

    Source: the published evaluation; each frame is repeated to a still clip.
    """
    clips = (still(prepare(images, network.side, protocol), frames) for images in (generated, reference))
    return cosine(*(network.video(clip) for clip in clips))


def prepare(
    images: Float[Tensor, "b 3 h w"], side: int, protocol: rules.Protocol
) -> Float[Tensor, "b 3 s s"]:
    """Frames as the video tower takes them: the shorter side resized, the middle cut out, normalised."""
    return normalize(cover(images, side, "bilinear", antialias=protocol == "corrected"), MEAN, STD)


def still(images: Float[Tensor, "b 3 s s"], frames: int) -> Float[Tensor, "b f 3 s s"]:
    """Repeats each image."""
    return images[:, None].expand(-1, frames, -1, -1, -1)


def begin(setting: Setting, _: Pairs, memory: Memory) -> Accumulator:
    """Opens the metric."""
    frames = FRAMES[setting.dataset]
    network = open_network(setting)

    def embed(batch: Batch, side: Side, chosen: list[int]) -> Float[Tensor, "k d"]:
        images = prepare(batch.images(side)[chosen], network.side, setting.protocol)
        with setting.autocast():
            return network.video(still(images, frames))

    return Similarity(embed, memory)


def open_network(setting: Setting) -> Any:  # noqa: ANN401 - an EgoVLP, imported only when it is needed
    """The data set's network, loaded once an evaluation."""
    # Takes seconds to import, so a wrong argument does not wait for it.
    from ldm.metrics.networks.egovlp_model import load_egovlp

    path = setting.weights[EGOVLP[setting.dataset].name]
    return setting.once(str(path), lambda: load_egovlp(path, FRAMES[setting.dataset], setting.device))


METRIC = Metric(
    name="egovlp",
    key="egovlp_image_sim",
    title="EgoVLP",
    low=-1.0,
    high=1.0,
    unit="",
    times=100,
    better="higher",
    source="cosine of EgoVLP's video features of still clips, 4 frames on ego4d, 16 on epickitchen",
    libraries=("torch",),
    open=begin,
    weights=lambda setting: (EGOVLP[setting.dataset],),
)
