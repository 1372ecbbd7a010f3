"""The device that a command names; as a command itself, whether it is there."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from egogen.cli import parser, run
from egogen.errors import UserError, device_fault

if TYPE_CHECKING:
    import torch  # a door names a device before it imports torch

log = logging.getLogger(__name__)
HELP = "auto, cpu or a GPU such as cuda:0"


def find_device(name: str, rank: int = 0) -> torch.device:
    """The device of a name.

    Args:
        name: `auto` is a GPU where there is one.
        rank: which GPU is meant by `cuda`: each of several processes on a machine takes its own.

    Raises:
        UserError: there is no such device.
    """
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        own = 0 if torch.cuda.device_count() == 1 else rank  # a launcher may show each process its own alone
        found = torch.zeros(1, device=f"cuda:{own}" if name == "cuda" else name).device
        if found.type == "meta":
            raise UserError(f"device {name!r}: it computes nothing; allowed are {HELP}")
        return found
    except (RuntimeError, AssertionError) as error:
        why = device_fault(name, torch.cuda.is_available(), error)
        raise UserError(f"device {name!r}: {why}; allowed are {HELP}") from None


def main(argv: Sequence[str] | None = None) -> None:
    """Finds a device, and says which it is."""
    made = parser("python -m ldm.networks.devices", __doc__)
    made.add_argument("name", help=HELP)
    log.info("device: %s", find_device(made.parse_args(argv).name))


if __name__ == "__main__":
    run(main)
