"""LPIPS and FID on networks that a hand can follow: what these are given, and how they are loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_fid import inception
from torch import Tensor, nn
from torch.nn.functional import interpolate

from egogen.errors import UserError
from ldm.metrics import fid, lpips
from ldm.metrics.feature_cache import Memory
from ldm.metrics.metric import MetricSetting
from ldm.metrics.metric_names import PROTOCOLS, Protocol
from ldm.metrics.networks.metric_weights import INCEPTION, LPIPS
from tests.ldm.evaluation.made_pairs import made_pairs
from tests.ldm.evaluation.networks import state
from tests.ldm.evaluation.test_gathering import make_batch

CPU = torch.device("cpu")


class Difference(nn.Module):
    """In place of LPIPS: the mean difference of pixels, and one more of frames in [-1, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def forward(self, a: Tensor, b: Tensor, normalize: bool) -> Tensor:
        self.sizes.append(len(a))
        return (a - b).mean((1, 2, 3), keepdim=True) + float(normalize)


def test_lpips_takes_pairs_one_by_one_on_a_cpu_and_at_once_elsewhere() -> None:
    network = Difference()
    a, b = torch.full((3, 3, 8, 8), 0.5), torch.tensor([0.5, 0.25, 0.0]).view(3, 1, 1, 1).expand(-1, 3, 8, 8)
    assert lpips.score(a, b, network).tolist() == [0.0, 0.25, 0.5]
    assert lpips.score(a, b, network, "corrected").tolist() == [1.0, 1.25, 1.5]
    assert lpips.score(a.to("meta"), b.to("meta"), network).shape == (3,)
    assert network.sizes == [1, 1, 1, 1, 1, 1, 3]


@pytest.mark.parametrize(
    ("protocol", "own", "more"),
    [
        ("published", None, 0),
        ("corrected", None, 1),
        ("published", "corrected", 1),
        ("corrected", "published", 0),
    ],
)
def test_lpips_follows_the_protocol_or_its_own(protocol: Protocol, own: Protocol | None, more: int) -> None:
    """The network is opened once; frames are brought to the size of their targets."""
    metric = lpips.metric("alex", "lpips_alex", "LPIPS", own)
    batch = make_batch("ab", torch.full((2, 3, 8, 8), 0.75), torch.full((2, 3, 4, 8), 0.25))
    weights = {LPIPS["alex"].name: Path("file")}
    setting = MetricSetting("ego4d", protocol, weights=weights, opened={"file": Difference()})
    found = metric.open(setting, made_pairs(), Memory())
    found.update(batch)
    assert found.compute().values == {"a": 0.5 + more, "b": 0.5 + more}


@pytest.mark.parametrize("net", ["squeeze", "alex"])
def test_lpips_loads_a_backbone_and_leaves_its_classifier(net: lpips.Net, tmp_path: Path) -> None:
    weights = state({"squeeze": "squeezenet1_1", "alex": "alexnet"}[net])
    path = tmp_path / "net.pth"
    torch.save({**weights, "classifier.1.weight": torch.zeros(2)}, path)
    metric = lpips.metric(net, f"lpips_{net}", "LPIPS")
    setting = MetricSetting("ego4d", weights={LPIPS[net].name: path})
    metric.open(setting, made_pairs(), Memory())
    network: Any = setting.opened[f"{path}"]
    assert network.pnet_type == net
    assert not network.training
    loaded = {name.partition(".")[2]: value for name, value in network.net.state_dict().items()}
    assert {f"features.{name}" for name in loaded} == weights.keys()
    assert all(torch.equal(value, weights[f"features.{name}"]) for name, value in loaded.items())
    assert (network.lin0.model[-1].weight >= 0).all()  # the published layers, not drawn ones


def test_lpips_says_whose_weights_it_wants(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = state("squeezenet1_1")
    weights["features.odd"] = weights.pop("features.0.bias")
    torch.save(weights, tmp_path / "net.pth")
    with pytest.raises(UserError) as told:
        lpips.load("squeeze", tmp_path / "net.pth", CPU)
    assert str(told.value) == (
        f"{tmp_path}/net.pth: not the weights of LPIPS (squeeze): of 50 tensors 1 missing (such as "
        "'slice1.0.bias'), 1 unknown (such as 'odd'); fetch it again by "
        "bash scripts/download_metric_weights.sh"
    )
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_inception_sees_squashed_frames(protocol: Protocol) -> None:
    images = torch.rand(2, 3, 10, 14, generator=torch.Generator().manual_seed(0))
    seen: list[Tensor] = []

    class Seeing(nn.Module):
        def forward(self, squashed: Tensor) -> list[Tensor]:
            seen.append(squashed)
            return [squashed.double().mean((2, 3), keepdim=True), torch.zeros(0)]

    found = fid.activations(Seeing(), images, protocol)
    sharp = protocol == "corrected"
    expected = interpolate(images, (299, 299), mode="bicubic" if sharp else "bilinear", antialias=sharp)
    assert torch.equal(seen[0], expected)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected.mean((2, 3)))
    if protocol == "published":
        assert torch.equal(fid.activations(Seeing(), images), found)


LAYERS = [
    *("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "Conv2d_3b_1x1", "Conv2d_4a_3x3"),
    *(f"Mixed_{name}" for name in ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b")),
]


class SmallInception(nn.Module):
    """Inception's parts, of which the last alone does something; loads what pytorch-fid would download."""

    def __init__(self) -> None:
        super().__init__()
        for name in LAYERS:
            setattr(self, name, nn.Identity())
        self.Mixed_7c = nn.Conv2d(3, 2, 1)
        self.load_state_dict(inception.load_state_dict_from_url(inception.FID_WEIGHTS_URL, progress=True))


def test_inception_is_loaded_from_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a grey frame g, which pytorch-fid brings to [-1, 1]: W (2 g - 1) + b."""
    monkeypatch.setattr(inception, "fid_inception_v3", SmallInception)
    download = inception.load_state_dict_from_url
    weights = {
        "Mixed_7c.weight": torch.arange(6.0).view(2, 3, 1, 1),
        "Mixed_7c.bias": torch.tensor([0.5, -1.0]),
    }
    path = tmp_path / INCEPTION.name
    torch.save(weights, path)
    network: Any = fid.load(path, CPU)
    assert inception.load_state_dict_from_url is download
    assert not network.training
    assert network.resize_input is False  # the frames are squashed by us
    found = fid.activations(network, torch.tensor([0.5, 0.75]).view(2, 1, 1, 1).expand(-1, 3, 20, 30))
    torch.testing.assert_close(found, torch.tensor([[0.5, -1.0], [0.5 + 3 / 2, -1.0 + 12 / 2]]))
    elsewhere: Any = fid.load(path, torch.device("meta"))
    assert next(elsewhere.parameters()).device.type == "meta"
    torch.save({**weights, "more" * 99: torch.zeros(1)}, path)
    with pytest.raises(UserError) as told:
        fid.load(path, CPU)
    begin = f"{path}: not the weights of Inception ("
    assert str(told.value).startswith(f"{begin}Error(s) in loading state_dict for SmallInception: Unexpected")
    reason, _, rest = str(told.value).removeprefix(begin).rpartition(")")
    assert len(reason) == 200
    assert rest == "; fetch it by bash scripts/download_metric_weights.sh"


def test_a_distance_is_of_all_batches_and_both_sides() -> None:
    """Of points with the same spread, 1 apart in each of two directions, it is 2."""
    metric = fid.Distance(lambda batch, side: batch.images(side)[:, :2, 0, 0])
    drawn = torch.tensor([[0.0, 0.0], [2.0, 4.0], [4.0, 2.0]])
    for names, rows in (("ab", slice(0, 2)), ("c", slice(2, 3))):
        images = torch.zeros(len(names), 3, 8, 8)
        images[:, :2] = drawn[rows, :, None, None]
        metric.update(make_batch(names, images, images + 1))
    moments = metric.moments["generated"]
    assert (moments.n, moments.mean.tolist()) == (3, [2.0, 2.0])
    np.testing.assert_allclose(moments.covariance, [[4, 2], [2, 4]])
    found = metric.compute()
    assert found.mean == pytest.approx(2)
    assert (found.n, found.infinite, found.finite_mean, found.standard_error) == (3, 0, found.mean, None)
    assert (found.values, found.captions) == ({}, {})
