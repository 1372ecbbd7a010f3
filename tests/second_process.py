"""A real second process that holds a lock until the test is done with it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HOLDER = """
import sys
from pathlib import Path
from egogen.locks import hold
with hold(Path(sys.argv[1]), "the work", sys.argv[2]):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def second_process(path: Path, part: str = "") -> Iterator[subprocess.Popen[str]]:
    """Holds `path` (or a share of it) from another process while the block runs."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path), part],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == "held\n", process.stderr.read()
    try:
        yield process
    finally:
        process.communicate()  # closes its input, at which it ends
