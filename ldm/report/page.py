"""Writes the report: index.html, which needs no other file and no network, metrics.json and the tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

from egogen.files import atomic_open, write_json
from egogen.pages import render
from ldm.report.comparison import Comparison
from ldm.report.curves import Panel
from ldm.report.formats import latex, markdown
from ldm.report.gallery import Card
from ldm.report.results_table import Column, Table, cell
from ldm.report.runs import Run


@dataclass(frozen=True)
class Page:
    """What the page shows.

    Args:
        title: heading.
        runs: the systems, the main one first.
        table: of the systems.
        compared: intervals and tests.
        gallery: items, evenly spread.
        extremes: best, median and worst items of each metric.
        panels: loss curves.
    """

    title: str
    runs: Sequence[Run]
    table: Table
    compared: Sequence[tuple[Column, Sequence[Comparison]]]
    gallery: Sequence[Card] = ()
    extremes: Sequence[tuple[Column, Sequence[tuple[str, Card]]]] = ()
    panels: Sequence[Panel] = field(default_factory=list)


def metrics_json(runs: Sequence[Run]) -> dict[str, object]:
    """`{"dataset", "protocol", "systems": {name: {metric: {"mean", "stderr", "n"}}}}`; null is infinite."""
    return {
        "dataset": runs[0].details["dataset"],
        "protocol": runs[0].details["protocol"],
        "systems": {
            run.name: {
                metric: {"mean": entry["mean"], "stderr": entry["standard_error"], "n": entry["n"]}
                for metric, entry in run.details["metrics"].items()
            }
            for run in runs
        },
    }


def html(page: Page) -> str:
    """The page. Texts are escaped; pictures and drawings are inlined."""
    entries = {name: entry for run in page.runs for name, entry in run.details["metrics"].items()}
    words = {
        "page": page,
        "details": page.runs[0].details,
        "entries": entries,
        "cell": cell,
        "written": datetime.now(timezone.utc).strftime("%d %B %Y"),
    }
    return render("ldm.report", "index.html.j2", words)


def write(out: Path, page: Page) -> None:
    """Writes the page, its numbers and its table, each atomically."""
    texts = {"index.html": html(page), "table.md": markdown(page.table), "table.tex": latex(page.table)}
    for name, words in texts.items():
        with atomic_open(out / name) as file:
            file.write(f"{words}\n".encode())
    write_json(out / "metrics.json", metrics_json(page.runs))
