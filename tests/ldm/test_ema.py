"""The moving average against its closed form."""

import pytest
import torch
from torch import nn

from ldm.training.ema import Ema


def test_decay_warms_up_as_published() -> None:
    parameters = {"w": nn.Parameter(torch.zeros(3))}
    ema = Ema(parameters, decay=0.5)
    expected = 0.0
    for n in range(1, 30):
        with torch.no_grad():
            parameters["w"].fill_(float(n))
        ema.update(parameters)
        decay = min(0.5, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * n
        assert ema.values()["w"][0].item() == pytest.approx(expected, rel=1e-6)


def test_applied_puts_the_last_weights_back_even_after_an_error() -> None:
    parameters = {"w": nn.Parameter(torch.ones(2))}
    ema = Ema(parameters, decay=0.9)
    with torch.no_grad():
        parameters["w"].fill_(5.0)

    def fail() -> None:
        with ema.applied(parameters):
            assert parameters["w"].tolist() == [1.0, 1.0]
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail()
    assert parameters["w"].tolist() == [5.0, 5.0]


def test_autocast_forgets_its_copies_of_the_weights() -> None:
    """Without, a validation in 16 bits measures the last weights twice."""
    layer = nn.Linear(2, 1, bias=False)
    parameters = {"w": layer.weight}
    ema = Ema(parameters, decay=0.9)
    with torch.no_grad():
        layer.weight.fill_(5.0)
        ema.shadow[0].fill_(1.0)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.ones(1, 2)).item() == 10
        with torch.no_grad(), ema.applied(parameters):
            assert layer(torch.ones(1, 2)).item() == 2
        found = layer(torch.ones(1, 2))
    assert found.item() == 10
    found.backward()
    assert parameters["w"].grad is not None


def test_a_restored_average_goes_on_as_the_one_that_was_saved() -> None:
    """Its updates count on: the decay of the next is not that of a first one."""
    parameters = {"w": nn.Parameter(torch.zeros(2))}
    saved, restored = Ema(parameters), Ema(parameters)
    with torch.no_grad():
        parameters["w"].fill_(1.0)
    for _ in range(20):
        saved.update(parameters)
    restored.restore(saved.values(), saved.updates)
    for ema in (saved, restored):
        ema.update(parameters)
    assert restored.values()["w"].tolist() == saved.values()["w"].tolist()
    assert restored.updates == 21
