"""PSNR and SSIM against closed forms, scikit-image and the published code's recorded values."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from egogen.annotations import Annotations
from egogen.errors import UserError
from ldm.metrics import psnr, ssim
from ldm.metrics.accumulators import remembered, similarity
from ldm.metrics.feature_cache import Memory, Store
from ldm.metrics.fid import Distance
from ldm.metrics.frames.frame_pairs import PairBatch, Side, read_pairs
from ldm.metrics.frames.protocol import check_shapes, match_size
from ldm.metrics.registry import METRICS


def random_pair(seed: int, *shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(shape, generator=generator), torch.rand(shape, generator=generator)


def test_psnr_of_a_known_difference() -> None:
    reference = torch.full((3, 3, 8, 8), 0.5)
    offsets = torch.tensor([0.1, 0.01, 0.5])
    values = psnr.score(reference + offsets.view(3, 1, 1, 1), reference)
    # mean squared error d^2 -> -20 log10 d
    torch.testing.assert_close(values, -20 * offsets.log10(), atol=2e-4, rtol=0)


def test_psnr_of_identical_images_is_infinite() -> None:
    image, _ = random_pair(0, 1, 3, 8, 8)
    assert psnr.score(image, image).tolist() == [math.inf]


def test_psnr_against_scikit_image() -> None:
    generated, reference = random_pair(1, 3, 3, 20, 33)
    witness = [
        peak_signal_noise_ratio(b.double().numpy(), a.double().numpy(), data_range=1)
        for a, b in zip(generated, reference, strict=True)
    ]
    np.testing.assert_allclose(psnr.score(generated, reference), witness, atol=1e-5, rtol=0)


def test_ssim_against_scikit_image() -> None:
    """scikit-image mirrors borders with the edge pixel repeated, torchmetrics without: so mirror first."""
    generated, reference = random_pair(2, 2, 3, 21, 34)
    generated = 0.7 * reference + 0.3 * generated
    margin = 16
    for a, b, value in zip(generated, reference, ssim.score(generated, reference), strict=True):
        wide = [np.pad(image.double().numpy(), ((0, 0), (margin, margin), (margin, margin)), "reflect")
                for image in (a, b)]  # fmt: skip
        _, pixels = structural_similarity(
            *wide, channel_axis=0, data_range=1, gaussian_weights=True, sigma=1.5,
            use_sample_covariance=False, full=True,
        )  # fmt: skip
        witness = pixels[:, margin:-margin, margin:-margin].mean()
        assert float(value) == pytest.approx(witness, abs=2e-5)


def test_ssim_of_flat_images() -> None:
    """Without contrast only the luminance term is left: (2ab + c1) / (a^2 + b^2 + c1), c1 = 0.01^2."""
    a, b = 0.3, 0.6
    value = ssim.score(torch.full((1, 3, 16, 16), a), torch.full((1, 3, 16, 16), b))
    assert float(value) == pytest.approx((2 * a * b + 1e-4) / (a * a + b * b + 1e-4), abs=1e-3)


def test_ssim_of_identical_images_is_one() -> None:
    image, _ = random_pair(3, 2, 3, 16, 16)
    torch.testing.assert_close(ssim.score(image, image), torch.ones(2), atol=1e-6, rtol=0)


def test_ssim_needs_a_whole_window() -> None:
    with pytest.raises(ValueError, match="5x9 pixels: SSIM needs at least 6"):
        ssim.score(torch.zeros(1, 3, 9, 5), torch.zeros(1, 3, 9, 5))


@pytest.mark.parametrize("score", [psnr.score, ssim.score])
def test_more_damage_scores_worse(score) -> None:  # noqa: ANN001
    _, reference = random_pair(4, 1, 3, 32, 32)
    noise = torch.randn(reference.shape, generator=torch.Generator().manual_seed(5))
    values = [float(score((reference + s * noise).clamp(0, 1), reference)) for s in (0.02, 0.1, 0.4)]
    assert values == sorted(values, reverse=True)


@pytest.mark.parametrize("score", [psnr.score, ssim.score])
def test_the_batch_changes_nothing(score) -> None:  # noqa: ANN001
    generated, reference = random_pair(6, 5, 3, 24, 32)
    alone = torch.cat([score(a[None], b[None]) for a, b in zip(generated, reference, strict=True)])
    torch.testing.assert_close(score(generated, reference), alone, atol=1e-5, rtol=0)


def test_match_size_is_bilinear_without_antialias() -> None:
    ramp = torch.linspace(0, 1, 4).view(1, 1, 1, 4).expand(1, 3, 2, 4)
    fitted = match_size(ramp, torch.zeros(1, 3, 2, 2))
    # Centres of two output pixels lie between input pixels 0 1 and 2 3.
    torch.testing.assert_close(fitted[0, 0, 0], torch.tensor([1 / 6, 5 / 6]))


def test_grey_frames_are_not_broadcast() -> None:
    with pytest.raises(ValueError, match=r"generated frames of shape \(2, 1, 8, 8\), targets of"):
        check_shapes(torch.rand(2, 1, 8, 8), torch.rand(2, 3, 8, 8))


def test_every_metric_says_what_it_is() -> None:
    for name, metric in METRICS.items():
        assert metric.name == name
        assert metric.scale.low < metric.scale.high
        assert metric.source


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_no_number_is_no_result(scene, tmp_path: Path, bad: float) -> None:  # noqa: ANN001
    """Of a network with broken weights: said, with the frame, and not kept for the next evaluation."""
    pairs = read_pairs(Annotations.read(scene.annotations), scene.run, scene.targets)
    (batch,) = pairs.batches(4, torch.device("cpu"))
    store = Store(tmp_path / "kept.sqlite")

    def broken(_: PairBatch, _side: Side, chosen: list[int]) -> torch.Tensor:
        return torch.full((len(chosen), 3), bad)

    vectors = remembered(broken, Memory("kind", store, store))
    with pytest.raises(
        UserError, match=r"000002\.jpg: the score is not a number; fetch the metric's weights"
    ):
        similarity(vectors).update(batch)
    with pytest.raises(UserError, match=r"000002\.jpg: the features of this frame are not finite"):
        Distance(vectors).update(batch)
    assert bad == float("inf") or not store.read("kind", batch.hashes("generated"))
