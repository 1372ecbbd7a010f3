"""The loop that trains the toy networks: its rates, its gradients, and how it goes on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from egogen.errors import UserError
from ldm.toy import fitting


def test_a_clipped_gradient_has_the_norm_asked_for() -> None:
    parameter = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
    # The loss's gradient is 100 x, of norm 500.
    loss = lambda _: 50 * parameter.square().sum()  # noqa: E731
    fitting.optimize(torch.optim.Adam([parameter], 1e-3), loss, 1, 1, batch=1, title="x", clip=1.0)
    assert parameter.grad is not None
    torch.testing.assert_close(parameter.grad, torch.tensor([0.6, 0.8]), rtol=1e-4, atol=0)


def fit(steps: int, keep: Path | None) -> torch.nn.Parameter:
    """A parameter that follows the rows drawn, at a held rate."""
    torch.manual_seed(0)
    parameter = torch.nn.Parameter(torch.zeros(3))
    optimizer = torch.optim.Adam([parameter], 1e-2)
    goal = torch.randn(8, 3)
    loss = lambda rows: (parameter - goal[rows]).square().mean()  # noqa: E731
    fitting.optimize(optimizer, loss, len(goal), steps, batch=2, title="x", keep=keep, hold=True)
    return parameter


def test_a_held_training_made_longer_is_the_longer_one(tmp_path: Path) -> None:
    keep = tmp_path / "x.training"
    fit(10, keep)
    assert torch.load(keep, weights_only=True)["done"] == 8  # before the rate falls
    longer = fit(20, keep)
    torch.testing.assert_close(longer, fit(20, None), rtol=0, atol=0)
    with pytest.raises(UserError, match="kept by a training with other settings"):
        fit(10, keep)  # its rate would have fallen before what is kept


def test_a_held_rate_rises_stays_and_falls_to_nothing() -> None:
    rates = [fitting.held_rate(step, 1000) for step in range(1000)]
    assert rates[0] == pytest.approx(1 / 300)
    assert set(rates[300:800]) == {1.0}
    assert rates[800] == 1.0
    assert rates[999] == pytest.approx(1 / 200)
    assert fitting.held_rate(4, 4) == 0
