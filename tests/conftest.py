"""Checks every annotated shape while the tests run: must come before any import of our packages."""

import gc
import os
import sys
import threading
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

MEASURED: dict[str, str] = {}  # the case of each test function that came first


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Leaves tests out of the coverage that add time rather than lines; the others reach the aim."""
    here, in_threads = sys.gettrace(), threading.gettrace()
    if not type(here).__module__.startswith("coverage") or adds_lines(item):  # a debugger's, or none
        return (yield)
    for set_trace in (sys.settrace, threading.settrace):
        set_trace(None)  # type: ignore[arg-type]  # as in `sys`, none is none
    try:
        return (yield)
    finally:
        threading.settrace(in_threads)  # type: ignore[arg-type]
        sys.settrace(here)


def adds_lines(item: pytest.Item) -> bool:
    """Whether a test is measured: none that is slow, and of one with many parameters the first case.

    Tracing makes quick tests half as long again, and further cases run the lines of the first.
    """
    function = item.nodeid.partition("[")[0]
    first = MEASURED.setdefault(function, item.nodeid)
    return first == item.nodeid and item.get_closest_marker("slow") is None


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
