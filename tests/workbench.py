"""A copy of the scripts in a folder with a space in its name; stand-ins for Python, uv, conda and sbatch."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
# What the scripts may use of a bare POSIX machine.
SYSTEM = (
    "bash basename cat cksum cp dirname env flock getconf grep ln mkdir mktemp mv rm sed sleep tail tee wc"
)
# One text for all stand-ins: it notes its name and arguments, then plays the part that its name says.
STAND_IN = r"""#!/usr/bin/env bash
me=$(basename "$0")
case "$me $*" in # questions, not steps
    "python -m egogen.paths "* | "python -m ldm.reproduce "*--steps*) exec "$REAL_PYTHON" "$@" ;;
    "python -c from egogen import cli"*) exit ;; # words, looked at before the call with the same
esac
echo "$me $*" >>"$CALLS"
{ printf '%q ' "$DATA_ROOT" "$RUN_ROOT" "$WEIGHTS_ROOT" "$me" "$@" && echo; } >>"$CALLS.full"
make_python() { mkdir -p "$1/bin" && cp "$STAND_IN" "$1/bin/python" && cp "$STAND_IN" "$1/bin/pip"; }
conda_run() { [[ -d $CONDA_ENVS/$1 ]] && echo "$CONDA_ENVS/$1"; }
if [[ -n ${FAIL_ON:-} && "$me $*" == *"$FAIL_ON"* ]]; then exit 7; fi
case $me in
    python*)
        case "$*" in
            *sys.executable*) [[ -z ${NO_PYTHON:-} ]] && echo "$0" ;;
            -V) echo "Python 3.11.0" ;;
            *find_spec*) exit 1 ;;
            "-m venv "*) make_python "${@: -1}" ;;
            *"pip install --quiet -r"*) cp "$STAND_IN" "$(dirname "$0")/uv" ;;
            *"$SLOW_ON"*) if [[ -n $SLOW_ON ]]; then sleep 60; fi ;;
        esac ;;
    uv) if [[ $1 == venv ]]; then make_python "${@: -1}"; fi ;;
    conda | mamba | micromamba)
        case "$*" in
            "run -n "*) conda_run "$3" ;;
            *remove*) rm -r "${CONDA_ENVS:?}/$4" ;;
            "env create"* | "env update"*) make_python "$CONDA_ENVS/$4" ;;
            create* | update*) make_python "$CONDA_ENVS/$3" ;;
        esac ;;
    sbatch)
        cat >"$CALLS.sbatch"
        [[ $* != *--parsable* ]] || echo "${JOB:-}"
        if [[ -n $SLOW_ON && "$*" == *"$SLOW_ON"* ]]; then exec sleep 60; fi ;;
esac
"""


class Call(NamedTuple):
    """What a stand-in was asked for: its name and arguments, and the roots that it was given."""

    words: list[str]
    roots: dict[str, str]


class Workbench:
    """Runs a script of the repository with stand-ins on PATH and keeps what they were asked for."""

    def __init__(self, folder: Path, tools: str) -> None:
        self.root = folder / "a clone"
        self.bin = folder / "bin"
        self.calls_file = folder / "calls"
        self.conda = folder / "conda envs"
        self.calls_file.touch()
        for name in ("scripts", "requirements", "benchmarks"):
            shutil.copytree(ROOT / name, self.root / name)
        for path in [*ROOT.glob("*_env.yaml"), ROOT / "pyproject.toml"]:
            shutil.copy(path, self.root)
        self.bin.mkdir()
        for name in SYSTEM.split():
            if found := shutil.which(name):
                (self.bin / name).symlink_to(found)
        stand_in = folder / "stand-in"
        stand_in.write_text(STAND_IN)
        stand_in.chmod(0o755)
        for name in tools.split():
            shutil.copy(stand_in, self.bin / name)
        self.environment = {
            "PATH": str(self.bin),
            "HOME": str(folder),
            "CALLS": str(self.calls_file),
            "STAND_IN": str(stand_in),
            "CONDA_ENVS": str(self.conda),
            "REAL_PYTHON": sys.executable,
            "PYTHONPATH": str(ROOT),
            "SLOW_ON": "",
        }

    def start(self, script: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """Starts a script from a folder that is not the repository."""
        return subprocess.Popen(
            ["bash", str(self.root / "scripts" / script), *arguments],
            env=self.environment | environment,
            cwd=self.root.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # Under a background job the signal is ignored, and what is ignored stays so in children.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )

    def run(self, script: str, *arguments: str, code: int = 0, **environment: str) -> str:
        """Runs a script to its end; returns what it printed."""
        process = self.start(script, *arguments, **environment)
        output, _ = process.communicate(timeout=60)
        assert process.returncode == code, output
        return output

    def interrupt(self, script: str, at: str, *arguments: str, **environment: str) -> tuple[int, str]:
        """Sends Ctrl-C's signal once a stand-in was called with `at`; returns exit code and output."""
        process = self.start(script, *arguments, **environment)
        deadline = time.monotonic() + 30
        while at not in self.calls_file.read_text():
            assert time.monotonic() < deadline, f"{at!r} was never called"
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGINT)
        output, _ = process.communicate(timeout=30)
        return process.returncode, output

    def full_calls(self) -> list[Call]:
        """What the stand-ins of scripts that know the roots were asked for since the last look."""
        file = self.calls_file.with_suffix(".full")
        lines = [shlex.split(line) for line in file.read_text().splitlines()] if file.exists() else []
        file.write_text("")
        names = ("DATA_ROOT", "RUN_ROOT", "WEIGHTS_ROOT")
        return [Call(line[3:], dict(zip(names, line, strict=False))) for line in lines]

    def calls(self) -> list[str]:
        """What the stand-ins were asked for since the last look."""
        lines = self.calls_file.read_text().splitlines()
        self.calls_file.write_text("")
        return lines
