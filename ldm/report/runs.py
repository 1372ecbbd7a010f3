"""A run as the report sees it: a folder with images/ and what the evaluation wrote beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from egogen.errors import UserError
from egogen.layout import metric_target_path
from ldm.metrics.results.result_files import details_path, read_details, read_values
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

    @property
    def images(self) -> Path:
        """The folder of its frames."""
        return self.folder / self.details.get("images", "images")

    def image(self, image_1: str) -> Path:
        """The frame it generated for a target."""
        return metric_target_path(self.images, image_1)

    def value(self, metric: str, image_1: str) -> float | None:
        """An item's value; infinity where it is infinite, None where there is none."""
        return self.item_values(metric).get(metric_target_path(Path(), image_1).as_posix())

    def item_values(self, metric: str) -> dict[str, float]:
        """All items' values by frame; infinity where one is infinite, none for a metric of the whole set."""
        return {
            frame: float("inf") if value is None else value
            for frame, value in self.values.get(metric, {}).items()
        }


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """Reads runs.

    Raises:
        UserError: a folder is not a measured run, two have one name, or they were measured on other items.
    """
    runs: list[Run] = []
    for folder in folders:
        if not (details_path(folder).exists() or (folder / "images").is_dir()):
            raise UserError(
                f"{folder}: not a run: there is no images/ folder; python -m ldm.sample makes one"
            )
        runs.append(Run(folder, read_details(folder), read_values(folder)))
        if not runs[-1].images.is_dir():
            raise UserError(f"{runs[-1].images}: no such folder; the frames were measured there")
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
        check_comparable(first, runs[-1])
    return runs


def check_comparable(first: Run, other: Run) -> None:
    """Compares how two runs were measured: items, weights, versions, settings.

    Raises:
        UserError: a metric that both have was measured in another way.
    """
    for name in first.details["metrics"].keys() & other.details["metrics"].keys():
        if first.item_values(name).keys() != other.item_values(name).keys():
            raise UserError(
                f"{other.folder}: {name} was measured on other frames than in {first.folder}; compare runs "
                "on the same items"
            )
        ours, theirs = (run.details["metrics"][name]["provenance"] for run in (first, other))
        for key in sorted((ours.keys() | theirs.keys()) - {"images_sha256"}):
            if ours.get(key) != theirs.get(key):
                raise UserError(
                    f"{other.folder}: {name} was measured with {key} = {theirs.get(key)!r}, in "
                    f"{first.folder} with {ours.get(key)!r}; measure both again by python -m ldm.evaluate"
                )


def columns(runs: Sequence[Run]) -> list[Column]:
    """The metrics of all runs, in the order in which they first occur."""
    return columns_of(run.details["metrics"] for run in runs)
