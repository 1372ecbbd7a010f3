"""PSNR, LPIPS and the Frechet distance against recorded numbers of the published code, and witnesses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torchmetrics.functional.image.lpips import _LPIPS

from egogen.layout import FOLDERS
from ldm.metrics import fid, lpips
from ldm.metrics.frames.protocol import match_size
from ldm.metrics.networks.metric_weights import LPIPS
from tests.ldm.evaluation.networks import ORACLE, normal
from tests.ldm.evaluation.recorded_run import Table, values
from tests.ldm.evaluation.test_oracle_features import frames

CPU = torch.device("cpu")


@pytest.mark.slow
@pytest.mark.parametrize("dataset", list(FOLDERS))
def test_psnr_and_lpips(
    whole_table: Callable[[str], Table], recorded: Path, weights: Path, dataset: str
) -> None:
    """Of each pair, as the command measured it; LPIPS in [-1, 1] by its function."""
    expected = np.load(ORACLE / "psnr_lpips.npz")
    measured = values(whole_table(dataset).folder)
    for name, tolerance in (("psnr", 1e-4), *((f"lpips_{net}", 1e-7) for net in lpips.TITLES)):
        found = [value for _, value in sorted(measured[name].items())]
        assert found == pytest.approx(expected[f"{dataset}_{name.removeprefix('lpips_')}"], abs=tolerance)
    networks = {net: lpips.load(net, weights / LPIPS[net].name, CPU) for net in lpips.TITLES}
    for index, (generated, target, _) in enumerate(frames(recorded, dataset)):
        pair = match_size(generated[None], target[None]), target[None]
        for net, network in networks.items():
            if net == "vgg" and index > 1:  # it takes seconds a pair
                continue
            value = float(lpips.score(*pair, network, "corrected"))
            # In [-1, 1] values are larger, and so is their rounding.
            assert value == pytest.approx(expected[f"{dataset}_{net}_norm"][index], abs=1e-6)


@pytest.mark.parametrize("net", list(lpips.TITLES))
def test_lpips_against_torchmetrics(weights: Path, net: lpips.Net) -> None:
    """The same backbone inside another library's LPIPS: 1e-6."""
    ours = lpips.load(net, weights / LPIPS[net].name, CPU)
    theirs = _LPIPS(net=net, pretrained=True, pnet_rand=True)
    state = ours.net.state_dict()
    if net == "squeeze":  # whose parts it numbers otherwise: slice1 is slices.0
        state = {f"slices.{int(name[5]) - 1}{name[6:]}": value for name, value in state.items()}
    theirs.net.load_state_dict(state)
    generator = torch.Generator().manual_seed(0)
    a, b = torch.rand(2, 3, 64, 80, generator=generator), torch.rand(2, 3, 64, 80, generator=generator)
    for protocol in ("published", "corrected"):
        with torch.no_grad():
            witness = theirs(a, b, normalize=protocol == "corrected").flatten()
        torch.testing.assert_close(lpips.score(a, b, ours, protocol), witness, atol=1e-6, rtol=0)


def drawn(name: str, width: int, counts: tuple[int, int]) -> list[np.ndarray]:
    """The recorded samples of two Gaussians."""
    mix = normal(f"frechet/{name}/mix", (width, width)) / np.sqrt(np.float32(width))
    first = normal(f"frechet/{name}/a", (counts[0], width)) @ mix
    identity = np.eye(width, dtype=np.float32)
    second = 0.7 * normal(f"frechet/{name}/b", (counts[1], width)) @ (mix + 0.2 * identity) + 0.3
    return [first, first if name == "equal" else second]


def moments_of(values: np.ndarray) -> fid.Moments:
    moments = fid.Moments.empty(values.shape[1])
    for start in range(0, len(values), 7):
        moments.add(values[start : start + 7])
    return moments


def from_vectors(first: np.ndarray, second: np.ndarray) -> float:
    """The distance without a covariance or a root: tr (A B)^1/2 is the nuclear norm of X Y^T, centred."""
    x, y = (values.astype(np.float64) for values in (first, second))
    x_centred, y_centred = x - x.mean(0), y - y.mean(0)
    spread = [np.square(part).sum() / (len(part) - 1) for part in (x_centred, y_centred)]
    norm = np.linalg.svd(x_centred @ y_centred.T, compute_uv=False).sum()
    root = norm / np.sqrt((len(x) - 1) * (len(y) - 1))
    return float(np.square(x.mean(0) - y.mean(0)).sum() + sum(spread) - 2 * root)


@pytest.mark.parametrize(
    ("name", "width", "counts"),
    [("full_rank", 48, (300, 280)), ("rank_deficient", 96, (12, 14)), ("equal", 32, (100, 100))],
)
def test_frechet_distance(name: str, width: int, counts: tuple[int, int]) -> None:
    first, second = drawn(name, width, counts)
    a, b = moments_of(first), moments_of(second)
    found = fid.frechet_distance(a.mean, a.covariance, b.mean, b.covariance)
    # Traces of about 100 in float64 leave 1e-14 each; sums over up to 96 directions came within 4e-13.
    tolerance = 1e-11
    assert found == pytest.approx(from_vectors(first, second), abs=tolerance)
    turned = fid.frechet_distance(b.mean, b.covariance, a.mean, a.covariance)
    assert turned == pytest.approx(found, abs=tolerance)
    # The recorded inputs were multiplied in float32 elsewhere, whose rounding shows at 1e-7 of the distance.
    exact = json.loads((ORACLE / "frechet.json").read_text())[name]["exact"]
    assert found == pytest.approx(exact, abs=max(tolerance, 1e-6 * exact))


def test_frechet_distance_of_known_gaussians() -> None:
    """Diagonal covariances: the sum of (m - n)^2 + (s - t)^2 over directions; s and t are deviations."""
    m, n = np.array([0.0, 1.0, -2.0]), np.array([0.5, 1.0, 0.0])
    s, t = np.array([1.0, 2.0, 0.0]), np.array([3.0, 0.5, 0.0])
    expected = np.square(m - n).sum() + np.square(s - t).sum()
    assert fid.frechet_distance(m, np.diag(s**2), n, np.diag(t**2)) == pytest.approx(expected, abs=1e-12)
    assert fid.frechet_distance(m, np.diag(s**2), m, np.diag(s**2)) == pytest.approx(0, abs=1e-12)
    nothing = np.zeros((3, 3))
    assert fid.frechet_distance(m, nothing, n, nothing) == pytest.approx(np.square(m - n).sum())


@pytest.mark.parametrize("size", [1e-9, 1.0, 1e9])
def test_frechet_distance_in_any_unit(size: float) -> None:
    """Deviations of 1 and 2 against 3 and 2, and of 0 against 1, in one unit: 4 + 0 + 1 of its squares."""
    nothing = np.zeros(3)
    a, b = (np.diag(np.square(np.array(each) * size)) for each in ([1.0, 2.0, 0.0], [3.0, 2.0, 1.0]))
    assert fid.frechet_distance(nothing, a, nothing, b) == pytest.approx(5 * size**2, rel=1e-12, abs=0)


def test_variance_below_rounding_counts_for_nothing() -> None:
    """Its root would not be below rounding: against a variance of 10^4 the one of 3e-16 would tell 2e-6."""
    nothing, a, b = np.zeros(3), np.diag([3e-16, 1.0, 3e-16]), np.diag([1e4, 1.0, 1e4])
    assert fid.frechet_distance(nothing, a, nothing, b) == pytest.approx(2e4, abs=1e-9)


def test_moments_do_not_depend_on_batches() -> None:
    values = np.random.default_rng(0).normal(3, 2, (50, 5)).astype(np.float32)
    whole = fid.Moments.empty(5)
    whole.add(values)
    np.testing.assert_allclose(whole.mean, values.astype(np.float64).mean(0), rtol=1e-12)
    np.testing.assert_allclose(whole.covariance, np.cov(values.astype(np.float64), rowvar=False), rtol=1e-12)
    for size in (1, 7, 49):
        parts = fid.Moments.empty(5)
        for start in range(0, 50, size):
            parts.add(values[start : start + size])
        np.testing.assert_allclose(parts.covariance, whole.covariance, rtol=1e-12)
