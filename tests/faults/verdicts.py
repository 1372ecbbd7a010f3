"""The table of docs/reliability.md, with its dates: read, and brought up to date with the cells of a run."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path

from tests.faults.cases import COMMANDS
from tests.faults.table import CELLS, FAULTS

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
HOLDS, FAILS, NOT_RUN = "holds", "FAILS", "not run"
WORDS = (HOLDS, FAILS, NOT_RUN)
BEGIN, END = "<!-- table: written by the tests -->", "<!-- end of the table -->"
LAST_RUN = "*last run*"
Cell = tuple[str, str]


def rows(text: str) -> dict[str, list[str]]:
    """The table's rows by their first column."""
    block = text.partition(BEGIN)[2].partition(END)[0]
    lines = [line for line in block.splitlines() if line.startswith("| ")]
    split = [[part.strip() for part in line.strip("|").split("|")] for line in lines]
    return {first: others for first, *others in split}


def read(text: str) -> dict[Cell, str]:
    """The verdicts that a page shows, by command and fault."""
    table, found = rows(text), {}
    columns = table.get("fault", [])
    for name, fault in FAULTS.items():
        for command, verdict in zip(columns, table.get(fault.words, []), strict=False):
            if verdict in WORDS:
                found[command, name] = verdict
    return found


def write(new: Mapping[Cell, str], seconds: Mapping[str, float], page: Path = PAGE) -> None:
    """Brings a page up to date.

    Args:
        new: verdicts of the cells that were run.
        seconds: what each command's cells took.
        page: the file.
    """
    text = page.read_text(encoding="utf-8")
    columns = rows(text).get("fault", [])
    dates = dict(zip(columns, rows(text).get(LAST_RUN, []), strict=False))
    today = datetime.now(timezone.utc).date().isoformat()
    dates |= {command: f"{today}, {took:.0f} s" for command, took in seconds.items()}
    known = read(text) | dict(new)
    shown = {cell: known.get(cell, NOT_RUN) for cell in CELLS}
    count = Counter(shown.values())
    told = ", ".join(f"{count[word]} {word}" for word in WORDS if count[word])
    lines = [
        f"{len(CELLS)} cells: {told}.", "",
        line("fault", list(COMMANDS)), "|---" * (len(COMMANDS) + 1) + "|",
        *(line(fault.words, [shown.get((command, name), "-") for command in COMMANDS])
          for name, fault in FAULTS.items()),
        line(LAST_RUN, [dates.get(command, "never") for command in COMMANDS]), "",
        "`-` marks cells that make no sense:", "",
        *(f"- {reason}" for reason in reasons()),
    ]  # fmt: skip
    block = "\n".join([BEGIN, "", *lines, "", END])
    pattern = re.escape(BEGIN) + ".*" + re.escape(END)
    page.write_text(re.sub(pattern, lambda _: block, text, flags=re.DOTALL), encoding="utf-8")


def line(first: str, others: list[str]) -> str:
    """A row."""
    return "| " + " | ".join([first, *others]) + " |"


def reasons() -> list[str]:
    """Why cells are left out, a line for each reason and the commands that share it."""
    found: dict[tuple[str, str], list[str]] = {}
    for fault in FAULTS.values():
        by_reason: dict[str, list[str]] = {}
        for command, why in fault.left_out.items():
            by_reason.setdefault(why, []).append(command)
        for why, commands in by_reason.items():
            found.setdefault((why, "; ".join(commands)), []).append(fault.words)
    return [f"{'; '.join(faults)}: {why} ({commands})" for (why, commands), faults in found.items()]
