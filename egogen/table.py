"""Tables for a terminal: columns as wide as their content, numbers to the right."""

from __future__ import annotations

from collections.abc import Sequence


def text_table(head: Sequence[str], rows: Sequence[Sequence[object]], *, markdown: bool = False) -> str:
    """Lays out a table.

    Args:
        head: the columns' names.
        rows: one value a column each; fractions are told to two places.
        markdown: with bars, as Markdown wants it.

    Returns:
        Lines that end in a line break each.
    """
    cells = [[written(value) for value in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
    right = [bool(rows) and isinstance(rows[0][index], (int, float)) for index in range(len(head))]

    def line(values: Sequence[str]) -> str:
        padded = (
            value.rjust(width) if to_right else value.ljust(width)
            for value, width, to_right in zip(values, widths, right, strict=True)
        )
        return f"| {' | '.join(padded)} |\n" if markdown else "  ".join(padded).rstrip() + "\n"

    rule = [
        "-" * (width - 1) + ":" if markdown and to_right else "-" * width
        for width, to_right in zip(widths, right, strict=True)
    ]
    return "".join(map(line, [head, rule, *cells]))


def written(value: object) -> str:
    """A cell: `1,200`, `0.25`, or a text as it is."""
    if isinstance(value, float):
        return f"{value:,.2f}"
    return f"{value:,}" if isinstance(value, int) else f"{value}"
