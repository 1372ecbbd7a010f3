"""Processes that lose each other are told in one line; any other error stays what it is."""

from __future__ import annotations

import pytest

from egogen.errors import UserError
from egogen.peers import together


class DistError(RuntimeError):
    """As torch names the error that all of its process groups' errors are."""


class DistNetworkError(DistError):
    """One of them."""


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            RuntimeError(
                "[/w/gloo/gloo/transport/tcp/pair.cc:545] Read error [10.77.0.2]:35470: "
                "Connection reset by peer. This is typically caused by a remote worker hanging"
            ),
            r"\(Read error \[10\.77\.0\.2\]:35470: Connection reset by peer\)",
        ),
        (RuntimeError("Application timeout caused pair closure"), r"\(Application timeout"),
        (
            DistNetworkError("The socket has timed out\nframe #0: a"),
            r"\(The socket has timed out\)",
        ),
    ],
)
def test_a_process_that_is_lost_is_one_line(error: RuntimeError, told: str) -> None:
    with pytest.raises(UserError, match=told) as caught, together("--ddp_timeout"):
        raise error
    message = str(caught.value)
    assert "\n" not in message
    assert "silent for longer than --ddp_timeout" in message
    assert "the same command again on all machines" in message


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("shape mismatch"),
        UserError("a step"),
        KeyError("a"),
        DistNetworkError("The server socket has failed to listen on any local network address. EADDRINUSE"),
        DistError("NCCL error in: a.cpp:1, invalid usage (run with NCCL_DEBUG=WARN for details)"),
    ],
)
def test_other_errors_stay(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, together("--ddp_timeout"):
        raise error
    assert caught.value is error
