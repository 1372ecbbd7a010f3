"""The files of an evaluation, all below `<run>/metric/`: written together, read by the report.

`metric.json`      metric -> value, as the published code names them; no stale key survives (F-EV-03)
`details.json`     what was measured, how, and how sure: mean, standard error, N, settings, versions
`per_sample.json`  metric -> frame (clip/action/file) -> value

JSON has no infinity: outside `metric.json`, which is as published, null stands for it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from egogen.annotations import check_object
from egogen.errors import UserError
from egogen.files import read_json, write_json
from ldm.metrics.metric import Metric, Result

FOLDER = "metric"
log = logging.getLogger(__name__)


def details_path(run: Path) -> Path:
    """Where a run's means and settings lie."""
    return run / FOLDER / "details.json"


def per_sample_path(run: Path) -> Path:
    """Where a run's values by item lie."""
    return run / FOLDER / "per_sample.json"


def metric_path(run: Path) -> Path:
    """Where a run's published file lies."""
    return run / FOLDER / "metric.json"


def entry(metric: Metric, result: Result, provenance: Mapping[str, Any]) -> dict[str, Any]:
    """A metric's part of `details.json`."""
    return {
        "title": metric.title,
        "unit": metric.unit,
        "range": [finite(metric.low), finite(metric.high)],
        "better": metric.better,
        "binary": metric.binary,
        "source": metric.source,
        "mean": finite(result.mean),
        "standard_error": result.standard_error,
        "n": result.n,
        "infinite": result.infinite,
        "finite_mean": result.finite_mean,
        "provenance": dict(provenance),
    }


def finite(value: float) -> float | None:
    """A number for JSON: null stands for infinity."""
    return value if math.isfinite(value) else None


def known(run: Path, provenance: Mapping[str, Mapping[str, Any]]) -> dict[str, Result]:
    """The stored results that the same images, settings and versions would give again.

    Args:
        run: the run's folder.
        provenance: by metric name, for every metric that there is.
    """
    if not details_path(run).exists():
        return {}
    try:
        entries = read_json(details_path(run))["metrics"]
        values = read_json(per_sample_path(run))
        return {
            name: result(entries[name], values[name])
            for name, origin in provenance.items()
            if name in entries and entries[name]["provenance"] == origin
        }
    except (UserError, KeyError, TypeError, AttributeError) as error:
        # Cut off or of another make. These files are ours to write, so it is safe to measure again.
        log.warning("%s: earlier results are not readable (%s); measuring again", run / FOLDER, error)
        return {}


def result(stored: Mapping[str, Any], values: Mapping[str, float | None]) -> Result:
    """A stored result as it was measured."""
    return Result(
        mean=math.inf if stored["mean"] is None else stored["mean"],
        standard_error=stored["standard_error"],
        n=stored["n"],
        infinite=stored["infinite"],
        finite_mean=stored["finite_mean"],
        values={frame: math.inf if value is None else value for frame, value in values.items()},
    )


def write(
    run: Path, about: Mapping[str, Any], measured: Mapping[str, tuple[Metric, Result, Mapping[str, Any]]]
) -> None:
    """Writes the three files, each atomically; nothing of an earlier evaluation is left in them.

    Args:
        run: the run's folder.
        about: what the evaluation was, for `details.json`.
        measured: by metric name: definition, result, provenance.
    """
    # details.json vouches for the others, so an old one goes first and the new one comes last.
    details_path(run).unlink(missing_ok=True)
    samples = {
        name: {frame: finite(value) for frame, value in result.values.items()}
        for name, (_, result, _) in measured.items()
    }
    write_json(per_sample_path(run), samples)
    write_json(metric_path(run), {name: result.mean for name, (_, result, _) in measured.items()})
    write_json(
        details_path(run), {**about, "metrics": {name: entry(*each) for name, each in measured.items()}}
    )


def read_details(run: Path) -> dict[str, Any]:
    """Reads a run's `details.json`.

    Raises:
        UserError: it is missing or not as written by the evaluation.
    """
    path = details_path(run)
    if not path.exists():
        raise UserError(f"{path}: no such file; measure this run first with python -m ldm.evaluate")
    details = check_object(read_json(path), f"{path}", "an evaluation")
    entries = check_object(details.get("metrics"), f"{path}, field 'metrics'", "metrics by name")
    for name, stored in entries.items():
        missing = {"mean", "standard_error", "n", "title", "unit", "better", "binary", "infinite"} - set(
            check_object(stored, f"{path}: metric {name!r}", "named fields")
        )
        if missing:
            raise UserError(
                f"{path}: metric {name!r}: the fields {sorted(missing)} are missing; measure again"
            )
    return details


def read_values(run: Path) -> dict[str, dict[str, float | None]]:
    """Reads a run's values by metric and frame; null is infinite.

    Raises:
        UserError: the file is missing or not of that form.
    """
    path = per_sample_path(run)
    return {
        name: check_object(values, f"{path}: metric {name!r}", "values by frame")
        for name, values in check_object(read_json(path), f"{path}", "metrics by name").items()
    }
