"""Each cell of the table: a command, a fault, and the same command again, which ends as if nothing had been.

Witness: the same command undisturbed; all that it leaves is compared, bit by bit (of checkpoints the state of
the run; times, speeds and curves with times do not count). Cells beyond a small sample are run by
`bash scripts/test.sh --faults`, which also writes their verdicts into docs/reliability.md.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from tests.faults import verdicts
from tests.faults.bench import Bench
from tests.faults.cases import COMMANDS, HERE, ready
from tests.faults.table import CELLS, FAULTS

# Of each kind of fault one, by quick commands; stage 2's processes take longer to begin.
SAMPLE = {
    ("prepare", "hang"), ("download", "kill_renamed"), ("download", "disk_full"), ("curate", "sigint_twice"),
    ("describe", "read_only"), ("evaluate", "io_error"),
}  # fmt: skip


@pytest.fixture(scope="session")
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """A command and its undisturbed result, for all of its cells."""
    root = tmp_path_factory.mktemp("faults")
    with ready(request.param, root) as case:
        yield Bench(case, root)
    shutil.rmtree(root, ignore_errors=True)


def cells() -> Iterator[object]:
    """All that can be tried in this environment."""
    for command, fault in CELLS:
        if command in HERE:
            marks = [] if (command, fault) in SAMPLE else [pytest.mark.faults]
            yield pytest.param(command, fault, marks=marks, id=f"{command}-{fault}")


@pytest.mark.parametrize(("bench", "fault"), list(cells()), indirect=["bench"], scope="session")
def test_cell(bench: Bench, fault: str) -> None:
    FAULTS[fault].work(bench)


def test_the_table_is_large_and_what_it_leaves_out_has_a_reason() -> None:
    left_out = [FAULTS[fault].left_out.get(command) for command in COMMANDS for fault in FAULTS]
    assert len(CELLS) >= 150
    assert len(CELLS) == sum(why is None for why in left_out)
    assert "" not in left_out


def test_the_page_has_every_cell() -> None:
    """Witness: the table itself; `--write-verdicts` writes the page anew."""
    text = verdicts.PAGE.read_text(encoding="utf-8")
    shown = verdicts.read(text)
    assert shown.keys() == set(CELLS)
    assert set(shown.values()) <= set(verdicts.WORDS)
    assert f"{len(CELLS)} cells" in text
    for why in {why for fault in FAULTS.values() for why in fault.left_out.values()}:
        assert why in text
