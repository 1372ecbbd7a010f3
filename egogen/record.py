"""What made a result, for people: command, versions, state of the code. For machines there is `manifest`."""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Iterable
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from egogen.told_command import told_command

ROOT = Path(__file__).parents[1]


def run_record(packages: Iterable[str]) -> dict[str, object]:
    """The circumstances of a run as JSON values: time, command, Python, versions, git commit.

    Args:
        packages: distributions whose versions matter; None stands for one that is not installed.
    """
    return {
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": told_command(sys.argv),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "versions": {name: installed(name) for name in packages},
        "git": git_state(),
    }


def installed(package: str) -> str | None:
    """The version of a distribution, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def git_state() -> dict[str, object] | None:
    """The commit that the code is at, and whether files differ from it; None outside a checkout.

    Of an installed package, the repository around it is somebody else's.
    """
    if not (ROOT / ".git").exists():
        return None

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(  # noqa: S603 - our own words
                ["git", "-C", str(ROOT), *words],  # noqa: S607 - whichever git is there
                capture_output=True,
                text=True,
                check=False,
            )
        except OSError:  # git is not installed
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = git("rev-parse", "HEAD")
    return {"commit": commit, "changed": bool(git("status", "--porcelain"))} if commit else None
