"""`egogen.prepare` as a command: its words, what it imports, and the processes that it spreads work over."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from egogen.errors import UserError
from egogen.prepare.__main__ import COMMANDS, main
from egogen.prepare.processes import spread
from tests.workbench import ROOT


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert f"usage: python -m egogen.prepare {command}" in text
    if command in ("ego4d", "epic", "folder"):
        assert "10 + n, n sources (videos, frame folders, images; n is at most 100)" in text


def test_no_command_imports_torch() -> None:
    modules = ", ".join(module for _, module in COMMANDS.values())
    code = f"import sys, {modules}, egogen.prepare.judge; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_a_command_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["charades"])
    assert "invalid choice: 'charades'" in capsys.readouterr().err


def crash_on_two(number: int) -> None:
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)


def fail_on_two(number: int) -> None:
    if number == 2:
        raise UserError("disk full")


def test_a_crashed_process_takes_its_own_work_only() -> None:
    ended = dict(spread(crash_on_two, range(5), 2))
    assert ended == {0: 0, 1: 0, 2: signal.SIGKILL, 3: 0, 4: 0}


def test_a_failed_process_ends_the_run() -> None:
    with pytest.raises(UserError, match="a process failed, as said above"):
        list(spread(fail_on_two, range(5), 2))
