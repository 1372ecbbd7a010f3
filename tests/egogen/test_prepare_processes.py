"""What processes of `spread` do with what they inherit; tests/egogen/test_prepare_run.py has the rest."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest

from egogen.prepare.processes import spread


class Decoder:
    """Notes in which process it is freed, where a real one would wait for its threads to end."""

    def __init__(self, freed: Path) -> None:
        self.freed, self.itself = freed, self  # a cycle, that only the garbage collector frees

    def __del__(self) -> None:
        with self.freed.open("a") as file:
            file.write(f"{os.getpid()}\n")


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_what_the_parent_left_is_not_freed_in_a_process_of_its_own(tmp_path: Path) -> None:
    freed = tmp_path / "freed"
    gc.disable()
    try:
        Decoder(freed)
        assert sorted(spread(lambda _: gc.collect(), ["a", "b"], 2)) == [("a", 0), ("b", 0)]
        assert not freed.exists(), "freed by a process that was forked"
    finally:
        gc.enable()
    gc.collect()
    assert freed.read_text() == f"{os.getpid()}\n"
