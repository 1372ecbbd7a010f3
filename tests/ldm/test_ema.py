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
