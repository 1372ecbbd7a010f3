"""Names that a package offers and imports when they are first asked for: parsing needs no torch."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module


def later(package: str, **homes: str) -> Callable[[str], object]:
    """A module's `__getattr__` (PEP 562): each name, and the module that it is really in."""

    def find(name: str) -> object:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(homes[name]), name)

    return find
