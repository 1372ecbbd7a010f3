"""One Markdown page of what `benchmarks/all.sh` measured: a table for each list of figures in the JSON files.

python benchmarks/collect.py FOLDER
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from egogen import cli
from egogen.cli import flag
from egogen.errors import UserError
from egogen.files import read_json


@dataclass(frozen=True)
class Collection:
    """The arguments."""

    folder: Path = flag("holds the JSON files", positional=True, type=Path)


def main() -> None:
    """Prints the page.

    Raises:
        UserError: there are no figures.
    """
    options = cli.options(Collection, None, "python benchmarks/collect.py", __doc__)
    pages = [(path.stem, read_json(path)) for path in sorted(options.folder.glob("*.json"))]
    if not pages:
        raise UserError(f"{options.folder}: holds no figures; bash benchmarks/all.sh measures them")
    for name, content in pages:
        sys.stdout.write(f"## {name}\n\nComputed by: {content['computes']}. Began {content['started']}.\n\n")
        for rows in content.values():
            if isinstance(rows, list) and rows and all(isinstance(row, dict) for row in rows):
                sys.stdout.write(f"{markdown(rows)}\n")


def markdown(rows: Sequence[Mapping[str, object]]) -> str:
    """Rows of figures by column, as a Markdown table."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    lines = [
        columns,
        ["---"] * len(columns),
        *([shown(row.get(column)) for column in columns] for row in rows),
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def shown(value: object) -> str:
    """A cell: four digits of a number, a dash for none."""
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else f"{value}"


if __name__ == "__main__":
    cli.run(main)
