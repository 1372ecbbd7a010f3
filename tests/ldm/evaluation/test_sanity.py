"""Metrics on real and toy frames: the perfect value for equal frames, and worse values for more damage."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from egogen.toy.__main__ import main as make_toy
from ldm.metrics import clip, egovlp, egovlp_plus, fid, lpips, psnr, ssim
from ldm.metrics.frames.images import read_image
from ldm.metrics.networks.egovlp_model import load_egovlp
from ldm.metrics.networks.metric_weights import CLIP, EGOVLP, INCEPTION, LPIPS
from tests.samples import PAIRS, missing

CPU = torch.device("cpu")
COUNT = 4


@pytest.fixture(scope="module", params=["toy", "real"])
def targets(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tensor:
    """Target frames [4, 3, h, w]: of the toy world, and of real pairs."""
    if request.param == "real":
        if why := missing(PAIRS):
            pytest.skip(why)
        return torch.stack([read_image(path) for path in sorted(PAIRS.glob("*_output.jpg"))[:COUNT]])
    root = tmp_path_factory.mktemp("toy")
    make_toy(["--out", str(root), "--train", "1", "--val", str(COUNT), "--size", "64", "--seed", "5"])
    annotations = json.loads((root / "EgoGen" / "ego4d_val.json").read_text())
    val = root / "EgoGen" / "ego4d.fho" / "val"
    names = [action["image_1"] for actions in annotations.values() for action in actions.values()]
    return torch.stack([read_image(val / name) for name in names])


Score = Callable[[Tensor, Tensor], Tensor]


@pytest.fixture(scope="module")
def scores(weights: Path) -> dict[str, tuple[Score, float, str]]:
    """By name: the metric over batches, its perfect value, and whether higher is better."""
    towers = {
        "clip": clip.load(weights / CLIP.name, CPU),
        "egovlp": load_egovlp(weights / EGOVLP["ego4d"].name, 4, CPU),
    }
    squeeze = lpips.load("squeeze", weights / LPIPS["squeeze"].name, CPU)
    return {
        "psnr": (psnr.score, float("inf"), "higher"),
        "ssim": (ssim.score, 1.0, "higher"),
        "lpips, published": (lambda a, b: lpips.score(a, b, squeeze), 0.0, "lower"),
        "lpips, corrected": (lambda a, b: lpips.score(a, b, squeeze, "corrected"), 0.0, "lower"),
        "clip": (lambda a, b: clip.score(a, b, towers["clip"]), 1.0, "higher"),
        "clip, corrected": (lambda a, b: clip.score(a, b, towers["clip"], "corrected"), 1.0, "higher"),
        "egovlp": (lambda a, b: egovlp.score(a, b, towers["egovlp"], 4), 1.0, "higher"),
        "egovlp+": (
            lambda a, b: egovlp_plus.score(a, b, b.flip(-1), towers["egovlp"], 4), 1.0, "higher",
        ),
    }  # fmt: skip


def noisy(images: Tensor, amount: float) -> Tensor:
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    return (images + amount * noise).clamp(0, 1)


def blurred(images: Tensor, amount: float) -> Tensor:
    return gaussian_blur(images, 4 * int(2 * amount) + 1, amount)


def shifted(images: Tensor, amount: float) -> Tensor:
    return images.roll(int(amount), dims=-1)


DAMAGE: dict[str, Any] = {
    "noise": (noisy, (0.02, 0.1, 0.4)),
    "blur": (blurred, (0.5, 1.5, 6)),
    "shift": (shifted, (1, 4, 16)),
}


def test_equal_frames_are_perfect(targets: Tensor, scores: Any) -> None:
    for name, (score, perfect, _) in scores.items():
        assert score(targets, targets).tolist() == pytest.approx([perfect] * COUNT, abs=1e-5), name


@pytest.mark.slow
@pytest.mark.parametrize("kind", DAMAGE)
def test_more_damage_is_worse(targets: Tensor, scores: Any, kind: str) -> None:
    """In the mean over the frames. Towers of made weights know nothing of shifts: just not perfect."""
    damage, amounts = DAMAGE[kind]
    for name, (score, perfect, better) in scores.items():
        if kind == "shift" and name.startswith(("clip", "egovlp")):
            assert float(score(damage(targets, amounts[-1]), targets).mean()) < perfect - 1e-4
            continue
        means = [float(score(damage(targets, amount), targets).mean()) for amount in amounts]
        assert means == sorted(means, reverse=better == "higher"), (name, means)


@pytest.mark.slow
def test_fid_grows_with_damage(targets: Tensor, weights: Path) -> None:
    """In the first 64 of 2,048 features, whose covariance takes no seconds."""
    network = fid.load(weights / INCEPTION.name, CPU)

    def moments(images: Tensor) -> fid.Moments:
        found = fid.Moments.empty(64)
        found.add(fid.activations(network, images)[:, :64].numpy())
        return found

    def distance(a: fid.Moments) -> float:
        return fid.frechet_distance(a.mean, a.covariance, b.mean, b.covariance)

    b = moments(targets)
    assert distance(b) == pytest.approx(0, abs=1e-6)
    for damage, amounts in (DAMAGE["noise"], DAMAGE["blur"]):
        found = [distance(moments(damage(targets, amount))) for amount in amounts]
        assert found == sorted(found)
        assert found[0] > 0
