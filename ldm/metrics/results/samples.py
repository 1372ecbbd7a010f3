"""A table with a row for each frame: its value by each metric, and its captions. For your own analyses."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

from egogen.files import atomic_open
from ldm.metrics.frames.frame_pairs import Pair, Pairs
from ldm.metrics.results.result_files import Measured


def write(path: Path, runs: Mapping[str, tuple[Pairs, Mapping[str, Measured]]]) -> None:
    """Writes Parquet: a row for each frame of each run.

    Args:
        path: the file.
        runs: pairs and metrics by the run's name. A metric of a whole set, such as FID, has no column.
    """
    rows = [row(name, pair, metrics) for name, (pairs, metrics) in runs.items() for pair in pairs.pairs]
    columns = list(dict.fromkeys(column for each in rows for column in each))
    table = pa.table({column: [each.get(column) for each in rows] for column in columns})
    with atomic_open(path) as file:
        parquet.write_table(table, file)


def row(run: str, pair: Pair, metrics: Mapping[str, Measured]) -> dict[str, str | float]:
    """What is known of one frame."""
    found: dict[str, str | float] = {
        "run": run, "clip_id": pair.item.clip, "action_id": pair.item.id, "frame": pair.frame,
    }  # fmt: skip
    for name, measured in metrics.items():
        if measured.result.values:
            found[name] = measured.result.values[pair.frame]
        if measured.result.captions:
            found[f"{name}_caption"] = measured.result.captions[pair.frame]
    return found
