"""What each command prints for `--help`, and which packages it has imported by then."""

from __future__ import annotations

import json
import re
import subprocess
from functools import cache
from typing import NamedTuple

from tests.workbench import ROOT

# All in one process: packages that one command imports are listed for those behind it too.
HELP = """
import contextlib, io, json, runpy, sys
shown = {}
for name in sys.argv[1:]:
    sys.argv, out = [name, "--help"], io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit, ImportError, OSError):
        run = runpy.run_path if name.endswith(".py") else runpy.run_module
        run(name, run_name="__main__")
    shown[name] = out.getvalue(), [name for name in sys.modules if "." not in name]
print("SHOWN" + json.dumps(shown))
"""


class Shown(NamedTuple):
    """The help of a command, and the packages."""

    text: str
    packages: list[str]


def doors() -> list[str]:
    """The commands, as `python -m` takes them, and `main.py`."""
    files = [path for name in ("egogen", "llava", "ldm") for path in sorted(ROOT.glob(f"{name}/**/*.py"))]
    found = [path for path in files if re.search(r'^if __name__ == "__main__":$', path.read_text(), re.M)]
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in found]
    return [name.removesuffix(".__main__") for name in names] + ["main.py"]


def stage_of(door: str) -> str:
    """The environment of a command."""
    return "vllm" if door.startswith("llava") else "ldm"


@cache
def help_texts(stage: str) -> dict[str, Shown]:
    """All of the commands of an environment; the text is empty for one that cannot be run."""
    mine = [door for door in doors() if stage_of(door) == stage]
    command = f'source "{ROOT}/scripts/env.sh"; use_env {stage}; exec python -W ignore - "$@"'
    ran = subprocess.run(
        ["bash", "-c", command, "help", *mine],
        input=HELP,
        text=True,
        capture_output=True,
        check=True,
        cwd=ROOT,
    )
    shown = json.loads(ran.stdout.partition("SHOWN")[2])
    return {name: Shown(*found) for name, found in shown.items()}
