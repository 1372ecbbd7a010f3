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
from ldm.report.preferences import Preferences, summary
from ldm.report.preferences import as_json as preferences_json
from ldm.report.results_table import Column, Table, cell
from ldm.report.runs import Run
from ldm.report.shares import Share

LEAD = 3
# What a copy of the source wins, and the same inside the box that the action changes.
OF_WHOLE_FRAMES = {"psnr": "psnr_box", "ssim": "ssim_box"}


class Page(NamedTuple):
    """What the page shows."""

    title: str
    runs: Sequence[Run]  # the main one first
    table: Table
    compared: Sequence[tuple[Column, Sequence[Comparison]]]
    gallery: Sequence[Card]  # items, evenly spread
    extremes: Sequence[tuple[Column, Sequence[tuple[str, Card]]]]  # best, median and worst of each metric
    panels: Sequence[Panel]  # curves
    successes: Sequence[tuple[Column, Sequence[Share]]]  # of yes-or-no metrics
    study: Preferences | None = None

    @property
    def lead(self) -> tuple[Sequence[Card], Sequence[Card]]:
        """The few items that the page begins with, evenly spread over the gallery, and all others."""
        count = len(self.gallery)
        first = {place * count // LEAD for place in range(LEAD)}
        cards = list(enumerate(self.gallery))
        return (
            [card for place, card in cards if place in first],
            [card for place, card in cards if place not in first],
        )


def metrics_json(runs: Sequence[Run], study: Preferences | None) -> dict[str, object]:
    """`{"dataset", "protocol", "systems": {name: {metric: {"mean", "stderr", "n"}}}}`; null is infinite.

    With a study also `"study"`, what people preferred.
    """
    return {
        **({} if study is None else {"study": preferences_json(study)}),
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
    names = {column.name for column in page.table.columns}
    words = {
        "page": page,
        "details": page.runs[0].details,
        "entries": {name: entry for run in page.runs for name, entry in run.details["metrics"].items()},
        "cell": cell,
        "whole": [name for name in OF_WHOLE_FRAMES if name in names],
        "boxed": [name for name in OF_WHOLE_FRAMES.values() if name in names],
        "study_words": page.study and summary(page.study),
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
    write_json(out / "metrics.json", metrics_json(page.runs, page.study))
