"""Checks every annotated shape while the tests run: must come before any import of our packages."""

import gc
import os
from collections.abc import Generator
from importlib.util import cache_from_source
from pathlib import Path
from unittest import mock

import pytest
from jaxtyping import _import_hook, install_import_hook

PACKAGES = ("egogen", "llava", "ldm")
ROOT = Path(__file__).parents[1]
checked_file = _import_hook._optimized_cache_from_source


def compiled_file(kind: str, /, path: str, debug_override: bool | None = None) -> str:
    """Names of compiled files while one of our modules is imported: its own for those that are checked.

    Left alone, jaxtyping looks under that name for the libraries that our modules import too, where there is
    nothing: each run of pytest compiled torch, diffusers and transformers anew, for ten seconds.
    """
    if any(Path(path).is_relative_to(ROOT / package) for package in PACKAGES):
        return str(checked_file(kind, path, debug_override))
    return cache_from_source(path, debug_override)


_import_hook._optimized_cache_from_source = compiled_file
install_import_hook(PACKAGES, "beartype.beartype")


gc.disable()  # while the tests are collected: imports leave little to collect


def pytest_collection_finish() -> None:
    """From here on the garbage collector works, on what the tests make."""
    gc.freeze()
    gc.enable()


def pytest_unconfigure() -> None:
    """Lets go of all, or triton complains of leaks at the end."""
    gc.unfreeze()


def no_wait(handle: object) -> None:
    """In place of `os.fsync`: no test lets the machine crash, and a disk takes five milliseconds a file."""


os.fsync = no_wait


@pytest.fixture(scope="module", params=["in memory", "on disk"])
def kept_items(request: pytest.FixtureRequest) -> Generator[None]:
    """Runs a module's tests with items of every file in memory, and with those of every file left in it."""
    from egogen import stored_items

    with mock.patch.object(stored_items, "LARGE", -1 if request.param == "on disk" else 1 << 40):
        yield


def pytest_report_header() -> str:
    """Says whether tests of real samples are left out; `-ra` lists them with their reasons."""
    from tests.samples import EPIC, PAIRS, missing

    left_out = dict.fromkeys(why for folder in (EPIC, PAIRS) if (why := missing(folder)))
    return "; ".join(f"tests left out, {why}" for why in left_out) or "tests of real samples run too"
