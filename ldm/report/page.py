"""Writes the report: index.html, which needs no other file and no network, metrics.json and the tables."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import NamedTuple

from egogen.files import atomic_open, write_json
from egogen.pages import render
from ldm.report.comparison import Comparison
from ldm.report.curves import Panel
from ldm.report.formats import latex, markdown
from ldm.report.gallery import Card
from ldm.report.results_table import Column, Table, cell
from ldm.report.runs import Run


class Page(NamedTuple):
    """What the page shows."""

    title: str
    runs: Sequence[Run]  # the main one first
    table: Table
    compared: Sequence[tuple[Column, Sequence[Comparison]]]
    gallery: Sequence[Card]  # items, evenly spread
    extremes: Sequence[tuple[Column, Sequence[tuple[str, Card]]]]  # best, median and worst of each metric
    panels: Sequence[Panel]  # curves


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


def write(out: Path, page: Page) -> None:
    """Writes the page, its numbers and its table, each atomically; pictures and drawings are inlined."""
    words = {
        "page": page,
        "details": page.runs[0].details,
        "entries": {name: entry for run in page.runs for name, entry in run.details["metrics"].items()},
        "cell": cell,
        "written": datetime.now(timezone.utc).strftime("%d %B %Y"),
    }
    texts = {
        "index.html": render("ldm.report", "index.html.j2", words),
        "table.md": markdown(page.table),
        "table.tex": latex(page.table),
    }
    for name, text in texts.items():
        with atomic_open(out / name) as file:
            file.write(f"{text}\n".encode())
    write_json(out / "metrics.json", metrics_json(page.runs))
