"""What to tell where processes that train together have lost each other, for both stages; no torch."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from egogen.errors import UserError, reason

GLOO = re.compile(r"\[\S*gloo/\S*\] ")  # where in its own code an error of gloo comes from
# Of this process alone: its port is taken, its GPU is not as it must be. The others are well.
OWN = re.compile("EADDRINUSE|Duplicate GPU|invalid usage|invalid argument|unhandled cuda error")
LATE = "Application timeout caused pair closure"  # gloo's, without the place


@contextmanager
def together(limit: str) -> Iterator[None]:
    """Runs what needs the other processes.

    Args:
        limit: the setting of how long an answer is waited for.

    Raises:
        UserError: one of them has ended, or gave no answer in time.
    """
    try:
        yield
    except RuntimeError as error:
        if not of_peers(error):
            raise
        why = GLOO.sub("", reason(error)).partition(". This is typically")[0]
        raise UserError(
            f"the processes of this run have lost each other ({why[:200]}): another has "
            f"ended, and its own log says why, or was silent for longer than {limit}; give the same command "
            "again on all machines, and the run goes on from its newest checkpoint"
        ) from error


def of_peers(error: BaseException) -> bool:
    """Whether an error is of torch's process groups, or of what they are built on."""
    if OWN.search(f"{error}"):
        return False
    named = {kind.__name__ for kind in type(error).__mro__}
    return "DistError" in named or LATE in f"{error}" or GLOO.search(f"{error}") is not None
