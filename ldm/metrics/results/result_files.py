"""The files of an evaluation, all below `<run>/metric/`: written together, read by the report.

`metric.json`      published name -> value, as the published code writes it; no stale name survives (F-EV-03)
`blip.json`        clip -> action -> caption by BLIP-B; `blip-l.json` by BLIP-L; where they were measured
`details.json`     what was measured, how, and how sure: mean, standard error, interval, N, settings, versions
`per_sample.json`  metric -> frame (clip/action/file) -> value

JSON has no infinity: outside `metric.json`, which is as published, null stands for it.
"""

from __future__ import annotations

import json
import logging
import math
import tempfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Literal, NamedTuple, TypedDict, cast

import numpy as np

from egogen.annotations import JsonObject, check_object
from egogen.errors import UserError, reason
from egogen.files import atomic_open, read_json, write_json
from egogen.json_stream import UnusualJsonError, stream_object
from ldm.metrics.frames.frame_names import ByFrame, FrameNames
from ldm.metrics.frames.frame_pairs import Pairs
from ldm.metrics.metric import Metric, Result
from ldm.metrics.registry import METRICS
from ldm.metrics.results.intervals import interval

FOLDER = "metric"
DETAILS = Path(FOLDER, "details.json")  # of a run, as the others
PER_SAMPLE = Path(FOLDER, "per_sample.json")
PUBLISHED = Path(FOLDER, "metric.json")
PROGRESS = Path(FOLDER, "progress.sqlite")  # vectors of an evaluation that is not finished
SHARDS = Path(FOLDER, "shards")  # the same of its shards, a file each
CAPTIONS = {"blip_base": "blip.json", "blip_large": "blip-l.json"}
log = logging.getLogger(__name__)


class MetricEntry(TypedDict):
    """A metric's part of `details.json`."""

    key: str
    title: str
    unit: str
    times: int
    range: list[float | None]
    better: Literal["higher", "lower"]
    binary: bool
    source: str
    mean: float | None
    standard_error: float | None
    interval_95: list[float] | None
    n: int
    infinite: int
    finite_mean: float | None
    provenance: dict[str, object]


class Details(TypedDict):
    """What the report reads of `details.json`; it tells more, for people."""

    name: str
    dataset: str
    protocol: str
    n: int
    images: str
    metrics: dict[str, MetricEntry]


class Measured(NamedTuple):
    """A metric's definition, its result, and everything that decided it."""

    metric: Metric
    result: Result
    provenance: Mapping[str, object]


def prepare(run: Path) -> None:
    """Tries, before any work, whether results can be written; leaves nothing behind.

    Raises:
        UserError: nothing can be written there.
    """
    folder = run / FOLDER
    try:
        tempfile.TemporaryFile(dir=folder if folder.exists() else run).close()
    except OSError as error:
        raise UserError(
            f"{run / FOLDER}: results cannot be written there ({reason(error)}); copy or link the images "
            "into a folder that can be written"
        ) from None


def entry(measured: Measured, resamples: int) -> MetricEntry:
    """A metric's part of `details.json`."""
    metric, result, provenance = measured
    return {
        "key": metric.key,
        "title": metric.title,
        "unit": metric.scale.unit,
        "times": metric.scale.times,
        "range": [finite(metric.scale.low), finite(metric.scale.high)],
        "better": metric.scale.better,
        "binary": metric.binary,
        "source": metric.source,
        "mean": finite(result.mean),
        "standard_error": result.standard_error,
        "interval_95": interval(result.values.values(), resamples),
        "n": result.n,
        "infinite": result.infinite,
        "finite_mean": result.finite_mean,
        "provenance": dict(provenance),
    }


def finite(value: float) -> float | None:
    """A number for JSON: null stands for infinity."""
    return value if math.isfinite(value) else None


def number(value: float | None) -> float:
    """A number of JSON: null stands for infinity."""
    return math.inf if value is None else value


def known(run: Path, provenance: Mapping[str, Mapping[str, object]], pairs: Pairs) -> dict[str, Measured]:
    """The stored results that the same images, settings, weights and versions would give again.

    What the provenance of a metric does not speak of is taken as stored.
    """
    if not (run / DETAILS).exists():
        return {}
    try:
        entries = read_json(run / DETAILS)["metrics"]
        same = {
            name
            for name, origin in provenance.items()
            if name in entries and origin.items() <= entries[name]["provenance"].items()
        }
        values = stored_values(run / PER_SAMPLE, same, pairs.pairs.names)
        return {
            name: Measured(
                METRICS[name],
                stored_result(entries[name], values[name], captions(run, name, pairs)),
                entries[name]["provenance"],
            )
            for name in provenance
            if name in same
        }
    except (UserError, KeyError, TypeError, ValueError, AttributeError) as error:
        # Cut off or of another make. These files are ours to write, so it is safe to measure again.
        log.warning("%s: earlier results are not readable (%s); measuring again", run / FOLDER, error)
        return {}


def stored_names(run: Path) -> set[str]:
    """The metrics of an earlier evaluation; none if its file cannot be read."""
    try:
        return set(read_json(run / DETAILS)["metrics"])
    except (UserError, KeyError, TypeError):
        return set()


def captions(run: Path, metric: str, pairs: Pairs) -> dict[str, str]:
    """The stored captions of a metric by frame; none for one that does not caption."""
    if metric not in CAPTIONS:
        return {}
    stored = read_json(run / FOLDER / CAPTIONS[metric])
    return {pair.frame: stored[pair.item.clip][pair.item.id] for pair in pairs.pairs}


def stored_values(path: Path, metrics: Collection[str], names: FrameNames) -> dict[str, Mapping[str, float]]:
    """The stored values of some metrics, in 8 bytes each.

    Raises:
        UserError: the file cannot be read.
        KeyError: it has other frames.
    """
    found: dict[str, Mapping[str, float]] = {}
    for metric, values in metrics_of(path):
        if metric in metrics and values:
            by_place = np.fromiter((number(values[name]) for name in names), np.float64, len(names))
            found[metric] = ByFrame(names, by_place.item)
        elif metric in metrics:
            found[metric] = {}
    return found


def metrics_of(path: Path) -> Iterator[tuple[str, JsonObject]]:
    """What a file holds of each metric, one after the other.

    Raises:
        UserError: it cannot be read.
    """
    done = 0
    try:
        for metric in stream_object(path):
            yield metric.key, metric.value
            done += 1
    except UnusualJsonError:  # read it as a whole, which says what is wrong
        whole = check_object(read_json(path), f"{path}", "metrics by name")
        yield from list(whole.items())[done:]


def stored_result(stored: MetricEntry, values: Mapping[str, float], texts: Mapping[str, str]) -> Result:
    """A stored result as it was measured."""
    return Result(
        mean=number(stored["mean"]),
        standard_error=stored["standard_error"],
        n=stored["n"],
        infinite=stored["infinite"],
        finite_mean=stored["finite_mean"],
        values=values,
        captions=texts,
    )


def write(
    run: Path, about: Mapping[str, object], measured: Mapping[str, Measured], pairs: Pairs, resamples: int
) -> None:
    """Writes the files, each atomically; nothing of an earlier evaluation is left in them."""
    # The bootstrap may take minutes, in which an interruption finds the old files whole.
    entries = {name: entry(each, resamples) for name, each in measured.items()}
    ours = (run / DETAILS).exists()  # captions without it are those of the published code
    # details.json vouches for the others, so an old one goes first and the new one comes last.
    (run / DETAILS).unlink(missing_ok=True)
    with atomic_open(run / PER_SAMPLE) as rows:
        rows.writelines(each.encode() for each in per_sample(measured))
    for name, file in CAPTIONS.items():
        if ours:
            (run / FOLDER / file).unlink(missing_ok=True)
        if name in measured:
            write_json(run / FOLDER / file, by_action(measured[name].result.captions, pairs))
    write_json(run / PUBLISHED, {each.metric.key: each.result.mean for each in measured.values()})
    write_json(run / DETAILS, {**about, "bootstrap": resamples, "metrics": entries})


def per_sample(measured: Mapping[str, Measured]) -> Iterator[str]:
    """The lines of `per_sample.json`, as `egogen.files.write_json` would write them."""
    before = "{\n"
    for name, each in measured.items():
        yield f"{before}    {json.dumps(name)}: {{"
        begun = False
        values = each.result.values
        for frame, value in zip(values, values.values(), strict=True):
            yield f"{',' if begun else ''}\n        {json.dumps(frame)}: {json.dumps(finite(value))}"
            begun = True
        yield "\n    }" if begun else "}"
        before = ",\n"
    yield "\n}\n" if measured else "{}\n"


def by_action(texts: Mapping[str, str], pairs: Pairs) -> dict[str, dict[str, str]]:
    """Captions as published: by clip and action."""
    found: dict[str, dict[str, str]] = {}
    for pair in pairs.pairs:
        found.setdefault(pair.item.clip, {})[pair.item.id] = texts[pair.frame]
    return found


def read_details(run: Path) -> Details:
    """Reads a run's `details.json`.

    Raises:
        UserError: it is missing or not as written by the evaluation.
    """
    path = run / DETAILS
    if not path.exists():
        raise UserError(f"{path}: no such file; measure this run first with python -m ldm.evaluate")
    details = check_fields(Details, read_json(path), f"{path}", "an evaluation")
    entries = check_object(details["metrics"], f"{path}, field 'metrics'", "metrics by name")
    for name, stored in entries.items():
        check_fields(MetricEntry, stored, f"{path}: metric {name!r}", "named fields")
    return cast("Details", details)


def check_fields(kind: type, value: object, where: str, content: str) -> JsonObject:
    """Returns a JSON object that has all fields of a `TypedDict`.

    Raises:
        UserError: it is another type, or some are missing.
    """
    found = check_object(value, where, content)
    missing = kind.__annotations__.keys() - found.keys()
    if missing:
        raise UserError(f"{where}: the fields {sorted(missing)} are missing; measure again")
    return found


def read_values(run: Path) -> dict[str, dict[str, float]]:
    """Reads a run's values by metric and frame.

    Raises:
        UserError: the file is missing or not of that form.
    """
    path = run / PER_SAMPLE
    return {
        name: {
            frame: number(value)
            for frame, value in check_object(values, f"{path}: metric {name!r}", "values by frame").items()
        }
        for name, values in check_object(read_json(path), f"{path}", "metrics by name").items()
    }
