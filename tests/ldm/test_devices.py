"""The device that a command names."""

from __future__ import annotations

import logging

import pytest
import torch

from egogen.errors import UserError
from ldm.networks.devices import find_device, main


def test_auto_is_a_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_device("cpu").type == "cpu"
    assert find_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert find_device("auto").type == "cpu"


def test_every_process_takes_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def zeros(count: int, device: str) -> torch.Tensor:
        asked.append(device)
        return torch.ones(count)

    monkeypatch.setattr(torch, "zeros", zeros)
    find_device("cuda", rank=3)
    find_device("cuda:1", rank=3)
    assert asked == ["cuda:3", "cuda:1"]


@pytest.mark.parametrize("name", ["gpu", "meta", "cuda:99", "", "cpu:-1"])
def test_a_wrong_name_is_answered_by_what_is_allowed(name: str) -> None:
    with pytest.raises(
        UserError, match=f"device '{name}': .+; allowed are auto, cpu or a GPU such as cuda:0$"
    ):
        find_device(name)


def test_the_command_says_whether_a_device_is_there(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        main(["cpu"])
    assert "device: cpu" in caplog.text
    with pytest.raises(UserError, match="device 'cuda:99'"):
        main(["cuda:99"])


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("gpu", "there is none here"),
        ("mps", "there is none here"),
        ("cuda:0", "no NVIDIA GPU here that this torch"),
    ],
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_what_torch_says_of_its_makers_is_not_passed_on(name: str, told: str) -> None:
    with pytest.raises(UserError, match=f"^device '{name}': {told}"):
        find_device(name)
