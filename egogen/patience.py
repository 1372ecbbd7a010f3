"""Asks a server with patience, and says in one line why there was no good answer."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TypeVar

from huggingface_hub import constants
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RevisionNotFoundError

from egogen.errors import UserError, reason

Answer = TypeVar("Answer")

# Seconds to wait before each further try where a server is overloaded or does not answer.
WAITS = (1.0, 4.0)
OVERLOADED = 429
# The hub's client stands on one of these, depending on its version.
CLIENTS = [sys.modules[name] for name in ("httpx2", "httpx") if name in sys.modules]
TRANSPORT_ERRORS: tuple[type[Exception], ...] = tuple(client.TransportError for client in CLIENTS)


def patiently(
    ask: Callable[[], Answer], what: str, why: Callable[[HfHubHTTPError, int], str] | None = None
) -> Answer:
    """Asks again where that may help.

    Args:
        ask: the question.
        what: names what is asked for, in messages.
        why: what a refusal with a status means; by default that of a download.

    Raises:
        UserError: no good answer came; names `what` is asked for.
    """
    for wait in (*WAITS, None):
        try:
            return ask()
        except HfHubHTTPError as error:
            status = error.response.status_code
            if wait is None or (status < 500 and status != OVERLOADED):
                raise UserError(f"{what}: {(why or refusal)(error, status)}") from None
        except TRANSPORT_ERRORS as error:
            if wait is None:
                raise UserError(
                    f"{what}: no answer from the server ({reason(error)}); {look()}, and run the same "
                    "command again to go on"
                ) from None
        except (ValueError, KeyError):
            raise UserError(f"{what}: the answer is none of a hub; {look()}") from None
        time.sleep(wait)
    raise AssertionError("the last try returns or raises")


def look() -> str:
    """Where a user should look first."""
    return f"look at the network, or at HF_ENDPOINT ({constants.ENDPOINT})"


def refusal(error: HfHubHTTPError, status: int) -> str:
    """Why a server refused, and what to do."""
    login = "set HF_TOKEN or run: hf auth login"
    if isinstance(error, GatedRepoError):
        return f"gated (HTTP {status}); accept its terms on {constants.ENDPOINT}, then {login}"
    if isinstance(error, RevisionNotFoundError):
        return f"no such revision (HTTP {status}); give another --revision"
    if status in (401, 403, 404):
        return (
            f"not there, or private (HTTP {status}); if it is private, {login}; if it is of another type, "
            "give --repo-type"
        )
    return f"the server answered HTTP {status}; try the same command again later to go on"
