"""Tables for a terminal: columns as wide as their content, numbers to the right."""

from __future__ import annotations

from collections.abc import Sequence


def text_table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Lays out a table.

    Args:
        head: the columns' names.
        rows: one value a column each.

    Returns:
        Lines that end in a line break each.
    """
    cells = [[f"{value:,}" if isinstance(value, int) else f"{value}" for value in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
    right = [bool(rows) and isinstance(rows[0][index], int) for index in range(len(head))]

    def line(values: Sequence[str]) -> str:
        padded = (
            value.rjust(width) if to_right else value.ljust(width)
            for value, width, to_right in zip(values, widths, right, strict=True)
        )
        return "  ".join(padded).rstrip() + "\n"

    return "".join(map(line, [head, ["-" * width for width in widths], *cells]))
