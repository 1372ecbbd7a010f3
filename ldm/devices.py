"""The device that a command names."""

from __future__ import annotations

import torch

from egogen.errors import UserError

HELP = "auto, cpu or a GPU such as cuda:0"


def find_device(name: str, rank: int = 0) -> torch.device:
    """The device of a name.

    Args:
        name: `auto` is a GPU where there is one.
        rank: which GPU is meant by `cuda`: each of several processes on a machine takes its own.

    Raises:
        UserError: there is no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        found = torch.zeros(1, device=f"cuda:{rank}" if name == "cuda" else name).device
        if found.type == "meta":
            raise RuntimeError("it computes nothing")
        return found
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"device {name!r}: {reason}; allowed are {HELP}") from None
