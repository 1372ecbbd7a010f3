"""A run as the report sees it: a folder with images/ and what the evaluation wrote beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from egogen.errors import UserError
from egogen.packed_frames import DrawnFrames, FrameFile
from ldm.metrics.results.intervals import paired_p_value
from ldm.metrics.results.result_files import DETAILS, Details, read_details, read_values


@dataclass(frozen=True)
class Run:
    """A measured run."""

    folder: Path
    details: Details
    values: Mapping[str, Mapping[str, float]]  # by metric and frame; none for a metric of the whole set

    @property
    def name(self) -> str:
        """The system's name, as given to the evaluation."""
        return self.details["name"]

    @property
    def images(self) -> Path:
        """The folder of its frames."""
        return self.folder / self.details["images"]

    @cached_property
    def frames(self) -> DrawnFrames:
        """Its frames."""
        return DrawnFrames(self.images)

    def image(self, frame: str) -> FrameFile:
        """The file of a frame, in the format that it was drawn in."""
        return self.frames.find(frame)

    def p_value(self, other: Run, metric: str) -> float | None:
        """Of a permutation test against another run on the same items; None where there is none."""
        ours, theirs = (run.values.get(metric, {}) for run in (self, other))
        frames = sorted(ours.keys() & theirs.keys())
        return paired_p_value([ours[frame] for frame in frames], [theirs[frame] for frame in frames])


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """Reads runs.

    Raises:
        UserError: a folder is not a measured run, two have one name, or they were measured on other items.
    """
    runs: list[Run] = []
    for folder in folders:
        if not ((folder / DETAILS).exists() or (folder / "images").is_dir()):
            raise UserError(
                f"{folder}: not a run: there is no images/ folder; python -m ldm.sample --out {folder} makes "
                "one, and python -m ldm.evaluate measures it"
            )
        run = Run(folder, read_details(folder), read_values(folder))
        if not run.images.is_dir():
            raise UserError(f"{run.images}: no such folder; the frames were measured there")
        for other in runs:
            if other.name == run.name:
                raise UserError(
                    f"{folder}: the name {other.name!r} is also that of {other.folder}; measure one of them "
                    "again with another --name"
                )
        runs.append(run)
        check_comparable(runs[0], run)
    return runs


def check_comparable(first: Run, other: Run) -> None:
    """Compares how two runs were measured: items, weights, versions, settings.

    Raises:
        UserError: a metric that both have was measured in another way.
    """
    ours: Mapping[str, object] = first.details
    theirs: Mapping[str, object] = other.details
    for key in ("dataset", "protocol", "n"):
        if theirs[key] != ours[key]:
            raise UserError(
                f"{other.folder}: measured with {key} = {theirs[key]!r}, but {first.folder} with "
                f"{ours[key]!r}; compare runs on the same items"
            )
    for name in first.details["metrics"].keys() & other.details["metrics"].keys():
        if first.values.get(name, {}).keys() != other.values.get(name, {}).keys():
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
