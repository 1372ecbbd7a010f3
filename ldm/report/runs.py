"""A run as the report sees it: a folder with images/ and what the evaluation wrote beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from egogen.errors import UserError
from egogen.layout import metric_target_path
from ldm.metrics.results import read_details, read_values
from ldm.report.table import Column, System, columns_of, measured


@dataclass(frozen=True)
class Run:
    """A measured run.

    Args:
        folder: where it lies.
        details: its `metric/details.json`.
        values: its values by metric and frame; None is infinite.
    """

    folder: Path
    details: Mapping[str, Any]
    values: Mapping[str, Mapping[str, float | None]]

    @property
    def name(self) -> str:
        """The system's name, as given to the evaluation."""
        return self.details["name"]

    @property
    def system(self) -> System:
        """Its row of the table."""
        return measured(self.name, self.details["metrics"])

    def image(self, image_1: str) -> Path:
        """The frame it generated for a target."""
        return metric_target_path(self.folder / "images", image_1)

    def value(self, metric: str, image_1: str) -> float | None:
        """An item's value; infinity where it is infinite, None where there is none."""
        values = self.values.get(metric, {})
        frame = metric_target_path(Path(), image_1).as_posix()
        if frame not in values:
            return None
        value = values[frame]
        return float("inf") if value is None else value


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """Reads runs.

    Raises:
        UserError: a folder is not a measured run, two have one name, or they were measured on other items.
    """
    runs: list[Run] = []
    for folder in folders:
        if not (folder / "images").is_dir():
            raise UserError(
                f"{folder}: not a run: there is no images/ folder; python -m ldm.sample makes one"
            )
        runs.append(Run(folder, read_details(folder), read_values(folder)))
        first = runs[0]
        for other in runs[:-1]:
            if other.name == runs[-1].name:
                raise UserError(
                    f"{folder}: the name {other.name!r} is also that of {other.folder}; measure one of them "
                    "again with another --name"
                )
        for key in ("dataset", "protocol", "n"):
            if runs[-1].details.get(key) != first.details.get(key):
                raise UserError(
                    f"{folder}: measured with {key} = {runs[-1].details.get(key)!r}, but {first.folder} with "
                    f"{first.details.get(key)!r}; compare runs on the same items"
                )
    return runs


def columns(runs: Sequence[Run]) -> list[Column]:
    """The metrics of all runs, in the order in which they first occur."""
    return columns_of(run.details["metrics"] for run in runs)
