"""Writes the report: index.html, which needs no other file and no network, and metrics.json."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from egogen.files import atomic_open, write_json
from ldm.metrics.published import published_results
from ldm.metrics.results import finite
from ldm.report.curves import Panel
from ldm.report.gallery import Card
from ldm.report.runs import Run, columns
from ldm.report.table import Table, published


def metrics_json(runs: Sequence[Run]) -> dict[str, Any]:
    """`{"dataset", "protocol", "systems": {name: {metric: {"mean", "stderr", "n"}}}}`; null is infinite."""
    return {
        "dataset": runs[0].details["dataset"],
        "protocol": runs[0].details["protocol"],
        "systems": {
            run.name: {
                metric: {"mean": finite(number.mean), "stderr": number.standard_error, "n": number.n}
                for metric, number in run.system.numbers.items()
            }
            for run in runs
        },
    }


def table(runs: Sequence[Run], paper: str | None) -> Table:
    """The systems by metrics, above the paper's rows for a data set where one is named.

    Raises:
        UserError: the paper has no such data set.
    """
    shown = columns(runs)
    rows = [run.system for run in runs]
    return Table(shown, rows + (published(published_results(paper), shown) if paper else []))


def html(
    runs: Sequence[Run], paper: str | None, gallery: Sequence[Card], panels: Sequence[Panel], title: str
) -> str:
    """The page. Texts are escaped; pictures and drawings are inlined."""
    environment = Environment(
        loader=PackageLoader("ldm.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template("index.html.j2").render(
        title=title,
        details=runs[0].details,
        table=table(runs, paper),
        paper=paper,
        sources={name: entry["source"] for run in runs for name, entry in run.details["metrics"].items()},
        gallery=gallery,
        panels=panels,
        written=datetime.now(timezone.utc).strftime("%d %B %Y"),
    )


def write(out: Path, page: str, metrics: dict[str, Any]) -> None:
    """Writes both files, each atomically."""
    with atomic_open(out / "index.html") as file:
        file.write(page.encode())
    write_json(out / "metrics.json", metrics)
