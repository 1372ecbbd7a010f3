"""The page and the tables of `python -m ldm.report.passes`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING

import numpy as np

from egogen.annotations import Annotations
from egogen.errors import UserError
from egogen.files import atomic_open, write_json
from egogen.pages import render
from egogen.table import text_table
from ldm.metrics.results.result_files import finite
from ldm.report.comparison import p_text
from ldm.report.curves import Curve, Panel, draw
from ldm.report.gallery import Album, Card
from ldm.report.results_table import Column, columns_of
from ldm.report.seed_rows import Judged, Row, column_of, likeness

if TYPE_CHECKING:
    from ldm.report.passes import PassesOptions

LIMITS_HEAD = ("row", "against", "metric", "may lose", "loses", "95 % interval", "p", "verdict")


def write(options: PassesOptions, rows: Sequence[Row], judged: Sequence[Judged]) -> None:
    """Writes `index.html`, `table.md`, `limits.md` and `rows.json`, each atomically.

    Raises:
        UserError: a row or a metric that is asked for is not there.
    """
    to_reference = likenesses(options.reference, rows)
    head, lines = table(rows, to_reference)
    words = {
        "title": options.title,
        "head": head,
        "lines": lines,
        "limits_head": LIMITS_HEAD,
        "limits": [judged_cells(each) for each in judged],
        "panels": [panel(metric, rows, place) for place, metric in enumerate(options.curves)],
        "cards": cards(options, rows),
        "seeds": len(options.seeds),
        "n": rows[0].runs[0].details["n"],
        "reference": options.reference,
        "written": datetime.now(timezone.utc).strftime("%d %B %Y"),
    }
    texts = {
        "index.html": render("ldm.report", "passes.html.j2", words),
        "table.md": text_table(head, lines, markdown=True),
        "limits.md": judged_text(judged, markdown=True),
    }
    for name, text in texts.items():
        with atomic_open(options.out / name) as file:
            file.write(text.encode())
    numbers = {
        row.name: {
            "passes": row.passes,
            "frames_per_second": row.frames_per_second,
            **{name: finite(value) for name, value in row.means.items()},
        }
        for row in rows
    }
    write_json(options.out / "rows.json", numbers)


def find_row(rows: Sequence[Row], name: str, flag: str) -> Row:
    """A row by its name.

    Raises:
        UserError: there is none.
    """
    for row in rows:
        if row.name == name:
            return row
    raise UserError(f"{flag} {name}: no such row; there are {', '.join(row.name for row in rows)}")


def likenesses(reference: str | None, rows: Sequence[Row]) -> list[float | None] | None:
    """Each row's PSNR to the reference's frames; None without a reference."""
    if reference is None:
        return None
    return [likeness(row, find_row(rows, reference, "--reference")) for row in rows]


def table(
    rows: Sequence[Row], to_reference: Sequence[float | None] | None = None
) -> tuple[list[str], list[list[str]]]:
    """Rows by metrics: the mean, and the ends of its 95 % interval."""
    columns = columns_of([rows[0].runs[0].details])
    head = ["system", "passes", "frames/s", *(column.heading for column in columns)]
    lines = [
        [row.system, f"{row.passes}", speed(row), *(cell(row, column) for column in columns)] for row in rows
    ]
    if to_reference is not None:
        head.append("PSNR to reference dB")
        for line, value in zip(lines, to_reference, strict=True):
            line.append("-" if value is None else f"{value:.2f}")
    return head, lines


def speed(row: Row) -> str:
    """Frames a second, where they were timed."""
    return "-" if row.frames_per_second is None else f"{row.frames_per_second:.2f}"


def cell(row: Row, column: Column) -> str:
    """A mean and its interval."""
    ends = row.interval(column.name)
    mean = column.show(row.means[column.name])
    return mean if ends is None else f"{mean} ({' to '.join(map(column.show, ends))})"


def rows_text(rows: Sequence[Row]) -> str:
    """The table for a terminal."""
    return text_table(*table(rows))


def judged_cells(judged: Judged) -> list[str]:
    """A line of the table of limits."""
    limit = judged.limit
    ends = judged.interval
    shown = "-" if ends is None else " to ".join(amount(judged, end) for end in ends)
    loses = amount(judged, judged.loss)
    words = [limit.row, limit.reference, limit.metric, limit.allowed, loses, shown, p_text(judged.p)]
    return [*words, judged.verdict]


def amount(judged: Judged, value: float) -> str:
    """A loss as its margin is told."""
    rounded = round(value, 3) + 0.0  # no negative zero
    return f"{100 * rounded:.1f} %" if judged.limit.is_share else f"{rounded:.3f}"


def judged_text(judged: Sequence[Judged], *, markdown: bool = False) -> str:
    """The table of limits."""
    return text_table(LIMITS_HEAD, [judged_cells(each) for each in judged], markdown=markdown)


def panel(metric: str, rows: Sequence[Row], place: int) -> Panel:
    """A metric over passes, a line for each system; `frames_per_second` is one too.

    Raises:
        UserError: a row was measured without it.
    """
    values: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        value = row.frames_per_second if metric == "frames_per_second" else row.means.get(metric)
        if value is None:
            raise UserError(f"--curves {metric}: {row.name} was measured without it")
        values.setdefault(row.system, []).append((row.passes, value))
    lines = [Curve(system, *np.array(sorted(points), np.float64).T) for system, points in values.items()]
    title = "Frames/s" if metric == "frames_per_second" else column_of(rows[0], metric).heading
    return Panel(title, draw(lines, f"passes{place}", "UNet passes a frame", is_log=True))


def cards(options: PassesOptions, rows: Sequence[Row]) -> list[Card]:
    """The gallery: some items by the rows that are to be shown, as the first seed drew them."""
    if not options.show or options.annotations is None or options.frames is None:
        return []
    runs = [find_row(rows, name, "--show").runs[0] for name in options.show]
    annotations = Annotations.read(options.annotations)
    return Album(annotations, options.frames, runs, {}, options.llava_key).cards(options.max_items)
