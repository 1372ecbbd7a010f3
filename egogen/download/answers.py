"""Asks a server with patience, and says in one line why there was no good answer."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TypeVar

from huggingface_hub import constants
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError

from egogen.errors import UserError

Answer = TypeVar("Answer")

# Seconds to wait before each further try where a server is overloaded or does not answer.
WAITS = (1.0, 4.0)
OVERLOADED = 429
# The hub's client stands on one of these, depending on its version.
CLIENTS = {"httpx2": "TransportError", "httpx": "TransportError", "requests": "RequestException"}
TRANSPORT_ERRORS: tuple[type[Exception], ...] = tuple(
    getattr(sys.modules[name], error) for name, error in CLIENTS.items() if name in sys.modules
)


def patiently(ask: Callable[[], Answer], what: str, *, lost_is_final: bool = False) -> Answer:
    """Asks again where that may help.

    Args:
        ask: sends the request.
        what: what is asked for, such as a repository.
        lost_is_final: `ask` has tried again itself if the connection was lost.

    Raises:
        UserError: no good answer came.
    """
    for wait in (*WAITS, None):
        try:
            return ask()
        except HfHubHTTPError as error:
            status = error.response.status_code
            if wait is None or (status < 500 and status != OVERLOADED):
                raise UserError(refusal(error, status, what)) from None
        except TRANSPORT_ERRORS as error:
            if wait is None or lost_is_final:
                raise UserError(
                    f"{what}: no answer from the server ({error}); look at the network, or at HF_ENDPOINT "
                    f"({constants.ENDPOINT}), and run the same command again to go on"
                ) from None
        except (ValueError, KeyError):
            raise UserError(
                f"{what}: the answer is none of a hub; look at the network, or at HF_ENDPOINT "
                f"({constants.ENDPOINT})"
            ) from None
        time.sleep(wait)
    raise AssertionError("the last try returns or raises")


def refusal(error: HfHubHTTPError, status: int, what: str) -> str:
    """Why a server refused, and what to do."""
    if isinstance(error, GatedRepoError):
        return (
            f"{what}: gated (HTTP {status}); accept its terms on {constants.ENDPOINT}, then set HF_TOKEN "
            "or run: hf auth login"
        )
    if status in (401, 403, 404):
        return (
            f"{what}: not there, or private (HTTP {status}); if it is private, set HF_TOKEN or run: "
            "hf auth login; if it is of another type, give --repo-type"
        )
    return f"{what}: the server answered HTTP {status}; try the same command again later to go on"
