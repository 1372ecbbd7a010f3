"""Measures which lines and branches the tests' own process runs: `python -m pytest -p tests.measured`.

SlipCover marks them in the compiled modules and takes many marks away once they ran: a few seconds
a run, where tracing costs quick tests half as long again. Its own hook for imports never sees our modules, as
jaxtyping's loads them to check shapes (`tests/conftest.py`): the marks are set in what that one compiles.
"""

import ast
import json
import os
import sys
from pathlib import Path
from types import CodeType
from typing import Any

from jaxtyping import _import_hook
from slipcover import Slipcover
from slipcover.branch import preinstrument

OURS = ["egogen", "llava", "ldm"]
COVERED = Slipcover(branch=True, source=OURS, exclude_also=["if __name__ == .__main__.:"])
FOLDER = Path(os.environ["COVERAGE"])  # for what was found


def marked(loader: Any, name: str) -> CodeType:
    """The module's code as jaxtyping's loader makes it, with marks; no file keeps them."""
    path = loader.get_filename(name)
    tree = preinstrument(ast.parse(loader.get_data(path)))
    tree = _import_hook.JaxtypingTransformer(typechecker=loader._typechecker).visit(tree)
    code = compile(ast.fix_missing_locations(tree), path, "exec", dont_inherit=True)
    COVERED.register_module(sys.modules[name])
    return COVERED.instrument(code)


_import_hook._JaxtypingLoader.get_code = marked


def pytest_unconfigure() -> None:
    """Writes what was found."""
    (FOLDER / f"{os.getpid()}.json").write_text(json.dumps(COVERED.get_coverage()))
