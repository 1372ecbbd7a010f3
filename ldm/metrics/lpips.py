"""LPIPS: how far two frames are for an eye, as learned networks see it. Published."""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ldm.metrics.accumulators import paired
from ldm.metrics.feature_cache import Memory
from ldm.metrics.frames.frame_pairs import Pairs
from ldm.metrics.frames.protocol import check_shapes
from ldm.metrics.metric import DISTANCE, Accumulator, Metric, MetricSetting
from ldm.metrics.metric_names import Protocol
from ldm.metrics.networks.metric_weights import LPIPS, load_strictly, read_state

Net = Literal["squeeze", "vgg", "alex"]
TITLES: dict[Net, str] = {"squeeze": "LPIPS", "vgg": "LPIPS (VGG)", "alex": "LPIPS (AlexNet)"}
# On a CPU, whose caches hold the feature maps of few.
PAIRS_AT_ONCE = 1
# Backbone files hold a classifier too, which LPIPS has no use for.
FEATURES, CLASSIFIER = "features.", "classifier."


@torch.no_grad()
def score(
    generated: Float[Tensor, "b 3 h w"],
    reference: Float[Tensor, "b 3 h w"],
    network: nn.Module,
    protocol: Protocol = "published",
) -> Float[Tensor, " b"]:
    """LPIPS of each pair, 0 for identical images, lower is better.

    Frames in [0, 1]; `network` by `load`. The networks were made for [-1, 1], to which the corrected protocol
    brings frames; the published table was measured on [0, 1], half the contrast (F-EV-07).
    Source: Zhang et al. 2018, version 0.1.

    Raises:
        ValueError: their shapes differ.
    """
    check_shapes(generated, reference)
    size = PAIRS_AT_ONCE if generated.device.type == "cpu" else len(generated)
    values = [
        network(a, b, normalize=protocol == "corrected").flatten()
        for a, b in zip(generated.split(size), reference.split(size), strict=True)
    ]
    return torch.cat(values)


def load(net: Net, path: Path, device: torch.device) -> nn.Module:
    """The LPIPS network on a backbone of torchvision; its own layers are inside the package `lpips`.

    Raises:
        UserError: the file is broken, or of another network.
    """
    # Takes seconds to import, so a wrong argument does not wait for it.
    import lpips
    from transformers.initialization import no_init_weights

    # Drawing the 138 million weights of VGG at random takes seconds too; the file has them all.
    with warnings.catch_warnings(), no_init_weights():
        warnings.simplefilter("ignore")  # it calls torchvision by old names
        network = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
    state = {
        name.removeprefix(FEATURES): value
        for name, value in read_state(path).items()
        if not name.startswith(CLASSIFIER)
    }
    # The network's parts are slices of the backbone: slice2.3.weight is the backbone's 3.weight.
    backbone: nn.Module = network.net
    slices = {name.partition(".")[2]: name.partition(".")[0] for name in backbone.state_dict()}
    named = {f"{slices[name]}.{name}" if name in slices else name: value for name, value in state.items()}
    load_strictly(backbone, named, path, f"LPIPS ({net})")
    return network.to(device)


def metric(net: Net, name: str, title: str, protocol: Protocol | None = None) -> Metric:
    """The metric on a backbone, under a protocol or that of each evaluation."""

    def begin(setting: MetricSetting, _: Pairs, memory: Memory) -> Accumulator:
        network = setting.network(LPIPS[net], partial(load, net))
        return paired(partial(score, network=network, protocol=protocol or setting.protocol), memory)

    return Metric(
        name=name,
        title=title,
        scale=DISTANCE._replace(times=100),
        source="Zhang et al. 2018, version 0.1, "
        + ("frames in [-1, 1]" if protocol == "corrected" else "frames in [0, 1] in the published protocol"),
        libraries=("lpips", "torchvision"),
        open=begin,
        weights=lambda _: (LPIPS[net],),
        # Under the corrected protocol it would say the same twice.
        applies=lambda setting: protocol is None or setting.protocol != protocol,
    )


METRICS = [
    *(metric(net, f"lpips_{net}", title) for net, title in TITLES.items()),
    metric("squeeze", "lpips_corrected", "LPIPS in [-1, 1]", "corrected"),
]
