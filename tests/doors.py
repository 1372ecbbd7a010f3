"""What each command prints for `--help` in a Python without any libraries."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from functools import cache

from egogen.cli import ROOT_DOORS as NAMED
from egogen.features.__main__ import ACTIONS
from egogen.prepare.__main__ import COMMANDS
from tests.workbench import ROOT

ROOT_DOORS = [typed.split()[1] for typed in NAMED.values()]
# All in one process.
HELP = """
import contextlib, io, json, runpy, sys
shown = {}
for name in sys.argv[1:]:
    module, *words = name.split()
    sys.argv, out = [module, *words, "--help"], io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit, ImportError):
        run = runpy.run_path if module.endswith(".py") else runpy.run_module
        run(module, run_name="__main__")
    shown[name] = out.getvalue()
print(json.dumps(shown))
"""


def doors() -> list[str]:
    """The commands, as `python -m` takes them, and the doors at the root."""
    files = [path for name in ("egogen", "llava", "ldm") for path in sorted(ROOT.glob(f"{name}/**/*.py"))]
    found = [path for path in files if re.search(r'^if __name__ == "__main__":$', path.read_text(), re.M)]
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in found]
    return [name.removesuffix(".__main__") for name in names] + [*ROOT_DOORS]


def subcommands() -> list[str]:
    """The commands that are words behind another, as they are typed."""
    return [f"egogen.prepare {name}" for name in COMMANDS] + [f"egogen.features {name}" for name in ACTIONS]


@cache
def help_texts() -> dict[str, str]:
    """The help of all of them; empty for one that needs more than the standard library to show it."""
    ran = subprocess.run(
        [sys.executable, "-S", "-W", "ignore", "-c", HELP, *doors(), *subcommands()],
        cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, text=True, capture_output=True, check=True,
    )  # fmt: skip
    shown: dict[str, str] = json.loads(ran.stdout)
    return shown
