"""Variables of the environment that libraries read while they are imported: a bad one is told before that."""

from __future__ import annotations

import os
from urllib.parse import urlsplit

from egogen.errors import UserError, shorten

ADDRESSES = ("HF_ENDPOINT",)
SECONDS = ("HF_HUB_DOWNLOAD_TIMEOUT", "HF_HUB_ETAG_TIMEOUT")


def check_variables() -> None:
    """Checks what huggingface_hub, and so transformers and diffusers, cannot be imported with.

    Raises:
        UserError: one is no address, or no number; names it.
    """
    for name in ADDRESSES:
        try:
            _ = urlsplit(os.environ.get(name, "")).port
        except ValueError as error:
            raise refused(name, f"an address such as https://huggingface.co ({error})") from None
    for name in SECONDS:
        if not os.environ.get(name, "0").strip().isdecimal():
            raise refused(name, "a whole number of seconds")


def refused(name: str, wanted: str) -> UserError:
    """What to tell of a variable."""
    return UserError(f"{name}={shorten(os.environ[name])} in the environment: expected {wanted}; unset it")
