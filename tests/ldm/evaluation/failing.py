"""A command that ends with a mistake: one line, exit code 2."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from egogen.cli import run


def fails(main: Callable[[list[str]], object], argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Runs a command as a shell would; returns its one line of error."""
    with pytest.raises(SystemExit) as stopped:
        run(lambda: main(argv))
    assert stopped.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert told.count("\n") == 1
    return told
