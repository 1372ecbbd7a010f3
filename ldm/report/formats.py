"""A table of systems as text for a terminal, as Markdown and as LaTeX; the best and second are marked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from egogen.table import text_table
from ldm.report.report_options import FORMATS
from ldm.report.results_table import Table, cell

LATEX = str.maketrans(
    {"\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "#": r"\#", "_": r"\_", "$": r"\$", "{": r"\{",
     "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "∞": r"$\infty$",
     "↑": r"$\uparrow$", "↓": r"$\downarrow$", "<": r"\textless{}", ">": r"\textgreater{}"}
)  # fmt: skip


class Row(NamedTuple):
    """A system's name and, for each column, its text and its rank in the group (1, 2 or None)."""

    name: str
    cells: list[tuple[str, int | None]]


def rows(table: Table) -> Iterator[str | Row]:
    """The lines of a table: the title of each group, where it has one, then its systems."""
    for group in table.groups:
        if group.title:
            yield group.title
        for system in group.systems:
            shown = [" ± ".join(filter(None, cell(system, column))) for column in table.columns]
            ranks = [group.rank(system, column) for column in table.columns]
            yield Row(system.name, list(zip(shown, ranks, strict=True)))


def text(table: Table) -> str:
    """The table for a terminal: `*` marks the best of a group, `+` the second."""
    marks = {1: " *", 2: " +", None: ""}
    lines = list(rows(table))
    cells = [
        [line.name, *(words + marks[rank] for words, rank in line.cells)]
        for line in lines
        if isinstance(line, Row)
    ]
    head, rule, *laid = text_table(["", *(column.heading for column in table.columns)], cells).splitlines()
    systems = iter(laid)  # a group's title is as long as it is: it widens no column
    return "\n".join([head, rule, *(line if isinstance(line, str) else next(systems) for line in lines)])


def markdown(table: Table) -> str:
    """The table in Markdown: bold marks the best of a group, italics the second."""
    style: dict[int | None, str] = {1: "**{}**", 2: "*{}*", None: "{}"}
    lines = [
        ["system", *(column.heading for column in table.columns)],
        ["---"] + ["---:"] * len(table.columns),
    ]
    for row in rows(table):
        if isinstance(row, str):
            lines.append([f"**{escape(row)}**", *[""] * len(table.columns)])
        else:
            lines.append([escape(row.name), *(style[rank].format(words) for words, rank in row.cells)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def escape(words: str) -> str:
    """Words that neither end a cell nor are taken for markup."""
    return "".join(f"\\{sign}" if sign in "\\|*_<>`[]" else sign for sign in words)


def latex(table: Table) -> str:
    """The table in LaTeX for booktabs: bold marks the best of a group, a line below the second."""
    style: dict[int | None, str] = {1: r"\textbf{%s}", 2: r"\underline{%s}", None: "%s"}
    width = len(table.columns) + 1
    lines = [
        rf"\begin{{tabular}}{{l{'r' * len(table.columns)}}}",
        r"\toprule",
        " & ".join(["system", *(column.heading.translate(LATEX) for column in table.columns)]) + r" \\",
    ]
    for row in rows(table):
        if isinstance(row, str):
            lines += [r"\midrule", rf"\multicolumn{{{width}}}{{l}}{{\emph{{{row.translate(LATEX)}}}}} \\"]
        else:
            cells = (style[rank] % words.translate(LATEX) for words, rank in row.cells)
            lines.append(" & ".join([row.name.translate(LATEX), *cells]) + r" \\")
    if not table.groups[0].title:
        lines.insert(3, r"\midrule")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"])


WRITERS = dict(zip(FORMATS, (text, text, markdown, latex), strict=True))
