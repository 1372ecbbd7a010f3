"""Rows that were drawn and measured with several seeds: their means, and the limits they are held to."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from egogen.errors import UserError
from egogen.walks import shown
from ldm.metrics.frames.images import read_image
from ldm.metrics.psnr import score as psnr
from ldm.metrics.results.intervals import interval, paired_p_value
from ldm.report.results_table import Column, columns_of
from ldm.report.runs import Run, read_runs
from ldm.sampling.timing import frames_per_second

RESAMPLES = 10_000
ROUNDING = 1e-9  # of sums, at a limit that is met to the frame
LIMIT = re.compile(
    r"(?P<row>\S+) within (?P<margin>\d+(\.\d+)?)(?P<share>%?) of (?P<of>\S+) in (?P<metric>\S+)"
)


@dataclass(frozen=True)
class Row:
    """A system at a number of UNet passes a frame."""

    system: str
    passes: int
    runs: Sequence[Run]  # one a seed
    means: Mapping[str, float]  # by metric, over the seeds
    items: Mapping[str, Mapping[str, float]] = field(repr=False)  # by metric and frame, likewise
    frames_per_second: float | None = None

    @property
    def name(self) -> str:
        """As its folder is called."""
        return f"{self.system}/{self.passes}"

    def interval(self, metric: str) -> list[float] | None:
        """The 95 % interval of a mean over items, whose values are their means over the seeds."""
        return interval(self.items.get(metric, {}).values(), RESAMPLES)


def read_rows(seeds: Sequence[Path]) -> list[Row]:
    """Reads `<seed>/<system>/<passes>/` of all seeds; the systems in order, most passes first.

    Raises:
        UserError: a seed has other rows than the first, or a row was measured otherwise.
    """
    names = [row_names(seed) for seed in seeds]
    for seed, found in zip(seeds, names, strict=True):
        if found != names[0]:
            odd = sorted(set(found) ^ set(names[0]))[0]
            raise UserError(f"{seed}: its rows are not those of {seeds[0]}: {odd} is in one of them alone")
    by_seed = [read_runs([seed / name for name in names[0]]) for seed in seeds]
    rows = [make_row(name, runs) for name, runs in zip(names[0], zip(*by_seed, strict=True), strict=True)]
    for row in rows:
        if row.means.keys() != rows[0].means.keys():
            raise UserError(
                f"{row.runs[0].folder}: was measured in other metrics than {rows[0].runs[0].folder}"
            )
    return rows


def row_names(folder: Path) -> list[str]:
    """The rows below a folder.

    Raises:
        UserError: there are none, or a folder's name is no number.
    """
    found = [path.relative_to(folder) for each in shown(folder.glob("*/")) for path in shown(each.glob("*/"))]
    if not found:
        raise UserError(f"{folder}: holds no rows; expected <system>/<passes>/, drawn and measured")
    for path in found:
        if not path.name.isdigit():
            raise UserError(f"{folder / path}: expected the number of UNet passes as the folder's name")
    return [path.as_posix() for path in sorted(found, key=lambda path: (path.parent.name, -int(path.name)))]


def make_row(name: str, runs: Sequence[Run]) -> Row:
    """Means over the seeds of one row.

    Raises:
        UserError: the seeds were measured on other items or in other metrics.
    """
    system, _, passes = name.rpartition("/")
    columns = columns_of([runs[0].details])
    for run in runs:
        if columns_of([run.details]) != columns:
            raise UserError(f"{run.folder}: was measured in other metrics than {runs[0].folder}")
        for column in columns:
            if run.values.get(column.name, {}).keys() != runs[0].values.get(column.name, {}).keys():
                raise UserError(f"{run.folder}: {column.name} is of other frames than in {runs[0].folder}")
    means = {column.name: fmean(mean_of(run, column.name) for run in runs) for column in columns}
    items = {
        metric: {frame: fmean(run.values[metric][frame] for run in runs) for frame in values}
        for metric, values in runs[0].values.items()
    }
    speeds = [frames_per_second(run.folder) for run in runs]
    known = [speed for speed in speeds if speed is not None]
    return Row(system, int(passes), runs, means, items, fmean(known) if known else None)


def likeness(row: Row, reference: Row) -> float | None:
    """PSNR of a row's frames to those that a reference draws with the same seeds, in dB; None of itself."""
    if row is reference:
        return None
    values = []
    for run, other in zip(row.runs, reference.runs, strict=True):
        names = sorted(run.frames.names)
        pairs = [(read_image(run.frames.file(name)), read_image(other.frames.file(name))) for name in names]
        values += [float(psnr(ours[None], theirs[None])) for ours, theirs in pairs]
    return fmean(values)


def mean_of(run: Run, metric: str) -> float:
    """A run's mean; null stands for infinity."""
    value = run.details["metrics"][metric]["mean"]
    return math.inf if value is None else value


class Limit(NamedTuple):
    """How much worse one row may be than another: in the metric's unit, or a share of the other's value."""

    row: str
    margin: float
    is_share: bool
    reference: str
    metric: str

    @property
    def allowed(self) -> str:
        """The margin in words."""
        return f"{100 * self.margin:g} %" if self.is_share else f"{self.margin:g}"


def parse_limit(text: str) -> Limit:
    """Reads `ROW within 0.03 of ROW in METRIC`, or `5%`.

    Raises:
        UserError: it is not of that form.
    """
    found = LIMIT.fullmatch(text)
    if found is None:
        raise UserError(
            f"--limits {text!r}: expected 'ROW within NUMBER of ROW in METRIC', such as "
            "'phases/4 within 0.05 of teacher/60 in toy_success', or 'within 5%'"
        )
    share = found["share"] == "%"
    margin = float(found["margin"]) / (100 if share else 1)
    return Limit(found["row"], margin, share, found["of"], found["metric"])


class Judged(NamedTuple):
    """A limit and what was found: how much worse the row is, its 95 % interval, p of no difference."""

    limit: Limit
    loss: float
    interval: Sequence[float] | None
    p: float | None

    @property
    def verdict(self) -> str:
        """`held` or `missed`, by the mean; `surely` where all of the interval says so.

        An interval without width, of items that all differ alike, says nothing: resampling cannot widen it.
        """
        most = self.limit.margin + ROUNDING
        held = self.loss <= most
        word = "held" if held else "missed"
        low, high = self.interval or (0.0, 0.0)
        if low == high:
            return word
        return f"surely {word}" if (high <= most if held else low > most) else word


def judge(limit: Limit, rows: Sequence[Row]) -> Judged:
    """Holds a row to its limit: items in pairs, so that what is hard for both counts for neither.

    Raises:
        UserError: there is no such row, or it was measured without the metric.
    """
    known = {row.name: row for row in rows}
    for name in (limit.row, limit.reference):
        if name not in known:
            raise UserError(f"--limits: no row {name!r}; there are {', '.join(known)}")
        if limit.metric not in known[name].means:
            raise UserError(f"--limits: {name} was measured without {limit.metric!r}")
    row, reference = known[limit.row], known[limit.reference]
    worse = 1 if column_of(reference, limit.metric).better == "lower" else -1
    unit = reference.means[limit.metric] if limit.is_share else 1.0
    if unit == 0:
        raise UserError(f"--limits: {limit.reference} has {limit.metric} = 0, of which there is no share")
    loss = worse * (row.means[limit.metric] - reference.means[limit.metric]) / unit
    ours, theirs = row.items.get(limit.metric), reference.items.get(limit.metric)
    if not (ours and theirs):
        return Judged(limit, loss, None, None)
    losses = [worse * (ours[frame] - theirs[frame]) / unit for frame in sorted(ours)]
    pairs = [ours[frame] for frame in sorted(ours)], [theirs[frame] for frame in sorted(ours)]
    return Judged(limit, loss, interval(losses, RESAMPLES), paired_p_value(*pairs))


def column_of(row: Row, metric: str) -> Column:
    """How a metric of a row is shown."""
    return next(column for column in columns_of([row.runs[0].details]) if column.name == metric)
