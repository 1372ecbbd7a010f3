"""A table with a row for each frame: its value by each metric, and its captions. For your own analyses."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
from pyarrow import csv, parquet

from egogen.files import atomic_open
from ldm.metrics.frames.frame_pairs import Pairs
from ldm.metrics.results.result_files import Measured


def write(path: Path, runs: Mapping[str, tuple[Pairs, Mapping[str, Measured]]]) -> None:
    """Writes Parquet, or CSV where the file's name ends in that: a row for each frame of each run.

    Args:
        path: the file.
        runs: pairs and metrics by the run's name. A metric of a whole set, such as FID, has no column.
    """
    rows: list[dict[str, str | float]] = []
    for name, (pairs, metrics) in runs.items():
        for pair in pairs.pairs:
            row: dict[str, str | float] = {
                "run": name, "clip_id": pair.item.clip, "action_id": pair.item.id, "frame": pair.frame,
            }  # fmt: skip
            for metric, measured in metrics.items():
                if measured.result.values:
                    row[metric] = measured.result.values[pair.frame]
                if measured.result.captions:
                    row[f"{metric}_caption"] = measured.result.captions[pair.frame]
            rows.append(row)
    columns = list(dict.fromkeys(column for row in rows for column in row))
    table = pa.table({column: [row.get(column) for row in rows] for column in columns})
    with atomic_open(path) as file:
        (csv.write_csv if path.suffix.lower() == ".csv" else parquet.write_table)(table, file)
