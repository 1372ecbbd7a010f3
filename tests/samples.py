"""Real sample files, which are not part of the repository: where they are, and which tests need them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

VARIABLE = "LEGO_SAMPLES"  # told in docs/development.md
ROOT = Path(os.environ.get(VARIABLE) or "LEGO_SAMPLES-is-not-set")
EPIC, PAIRS = ROOT / "epic100", ROOT / "kubric_pairs"


def missing(folder: Path) -> str:
    """Why a test that needs a folder is left out; empty if it is there."""
    if folder.is_dir():
        return ""
    if os.environ.get(VARIABLE):
        return f"no real samples: {folder} is no folder (of {VARIABLE}={ROOT})"
    return f"no real samples: {VARIABLE} is not set (docs/development.md)"


def needs(folder: Path) -> pytest.MarkDecorator:
    """Leaves a test out where a folder of samples is not there, and says so."""
    why = missing(folder)
    return pytest.mark.skipif(bool(why), reason=why or "there")
