"""Commands parse before they import: `--help` at once, without any library, and lists of all of them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from egogen.commands import COMMANDS
from tests.doors import ROOT_DOORS, doors, help_texts, subcommands
from tests.workbench import ROOT

PACKAGES = ("egogen", "llava", "ldm")


@pytest.mark.parametrize("door", [*doors(), *subcommands()])
def test_help_needs_no_library(door: str) -> None:
    shown = help_texts()[door]
    assert shown.startswith("usage: ")
    assert "(default: None)" not in shown
    assert "(default: False)" not in shown
    assert "(default: [])" not in shown


def test_every_command_is_listed() -> None:
    listed = {each.module for each in COMMANDS}
    assert listed == {*doors()} - {*PACKAGES, *ROOT_DOORS, "egogen.commands"}
    assert len({each.name for each in COMMANDS}) == len(COMMANDS)
    shown = help_texts()["egogen.commands"]
    for each in COMMANDS:
        assert f"  {each.name} " in shown
        assert each.meaning in shown


@pytest.mark.parametrize(
    ("words", "needed"),
    [
        (["ldm.sample", "--method", "copy", "--config", "x.yaml"], "ldm.sample needs the environment 'ldm'"),
        (["llava.merge", "--save-path", "x", "--edits", "x", "--out", "x"], "needs the environment 'vllm'"),
        (["egogen.pack", "--dataset", "ego4d", "--split", "val", "--out", "x"], "'vllm' or 'ldm'"),
        (["llava"], ""),
    ],
)
def test_a_command_in_the_wrong_environment_says_so(words: list[str], needed: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-S", "-m", *words], cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, text=True,
        capture_output=True, check=False,
    )  # fmt: skip
    if not needed:
        assert "python -m llava.describe  Describes how" in ran.stdout
        return
    assert ran.returncode == 2
    assert len(ran.stderr.splitlines()) == 1
    assert needed in ran.stderr
    assert "bash scripts/run.sh" in ran.stderr
