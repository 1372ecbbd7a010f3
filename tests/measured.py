"""Measures which lines the tests' own process runs: `python -m pytest -p tests.measured`.

SlipCover marks lines in the compiled modules, and takes away the marks of those that ran: nothing is slower,
where tracing costs quick tests half as long again. Its own hook for imports never sees our modules, which
jaxtyping's loads to check their shapes (`tests/conftest.py`): the marks are set in what that one compiled.
"""

import json
import os
import sys
from pathlib import Path
from types import CodeType
from typing import Any

from jaxtyping import _import_hook
from slipcover import Slipcover

OURS = ["egogen", "llava", "ldm"]
COVERED = Slipcover(source=OURS)
compiled = _import_hook._JaxtypingLoader.get_code


def marked(loader: Any, name: str) -> CodeType:
    """The module's code, as jaxtyping's loader gives it, with marks."""
    COVERED.register_module(sys.modules[name])
    return COVERED.instrument(compiled(loader, name))


_import_hook._JaxtypingLoader.get_code = marked


def pytest_unconfigure() -> None:
    """Writes what was found below the folder that COVERAGE names."""
    lines = json.dumps(COVERED.get_coverage())
    Path(os.environ["COVERAGE"], f"{os.getpid()}.json").write_text(lines)
