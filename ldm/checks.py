"""How a configuration defends itself: a value that is not allowed is named, with what is."""

from __future__ import annotations

from egogen.errors import UserError


def check(name: str, value: object, allowed: str, good: bool) -> None:
    """Raises a `UserError` that names a key, its value and what is allowed, unless it is good."""
    if not good:
        raise UserError(f"{name}: got {value!r}, allowed: {allowed}")


def check_choice(name: str, value: str, *allowed: str) -> None:
    """Raises a `UserError` unless the value is one of a few words."""
    check(name, value, ", ".join(allowed), value in allowed)
