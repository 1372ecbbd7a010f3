"""The one exception that is a user's to mend, and its words; a command ends it with one line and code 2."""

from __future__ import annotations

import re


class UserError(ValueError):
    """Says what is wrong, what was found, what is allowed and what to do, in one line that names the path."""


def reason(error: BaseException) -> str:
    """Why something failed, in one line: the system's words, else the message's first line, else the type.

    Torch's advice to run what is in a file that holds more than tensors is not passed on.
    """
    if isinstance(error, OSError) and error.strerror:
        return str(error.strerror)
    text = str(error).strip()
    if "weights_only" in text:
        named = re.search(r"GLOBAL (\S+)", text) or re.search(r"WeightsUnpickler error: ([^\n]+)", text)
        return f"it names {named[1]}" if named else "it holds more than tensors and plain data"
    first, *more = text.splitlines() or [type(error).__name__]
    return f"{first} {more[0].strip()}" if first.endswith(":") and more else first


def device_fault(name: str, has_gpu: bool, error: BaseException) -> str:
    """Why a device cannot be taken; torch tells of all kinds that it might have been built for."""
    if name.partition(":")[0] not in ("cpu", "cuda"):
        return "there is none here"
    return reason(error) if has_gpu or name == "cpu" else "no NVIDIA GPU here that this torch can use"


def shorten(value: object, limit: int = 80) -> str:
    """A value's repr, cut for a one-line message; a number that is too long to write out is told as that."""
    try:
        text = repr(value)
    except ValueError:  # Python writes out integers up to 4,300 digits
        return "a number of thousands of digits"
    return text if len(text) <= limit else f"{text[:limit]}..."


def check(name: str, value: object, allowed: str, good: bool) -> None:
    """Raises a `UserError` that names a key, its value and what is allowed, unless it is good."""
    if not good:
        raise UserError(f"{name}: got {shorten(value)}, allowed: {allowed}")


def check_text(name: str, value: str) -> None:
    """Raises a `UserError` unless a text can be written: a command line's bytes may be no characters."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise UserError(
            f"{name}: got {value!r}, expected text in UTF-8; is the terminal set to it?"
        ) from None


def check_choice(name: str, value: str, *allowed: str) -> None:
    """Raises a `UserError` unless the value is one of a few words."""
    check(name, value, ", ".join(allowed), value in allowed)
