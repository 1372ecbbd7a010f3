"""A table with a row for each frame: its value by each metric, and its captions. For your own analyses."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
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
    table = pa.concat_tables(
        [rows(name, pairs, metrics) for name, (pairs, metrics) in runs.items()], promote_options="default"
    ).combine_chunks()
    with atomic_open(path) as file:
        (csv.write_csv if path.suffix.lower() == ".csv" else parquet.write_table)(table, file)


def rows(run: str, pairs: Pairs, metrics: Mapping[str, Measured]) -> pa.Table:
    """Those of one run, in the order of its pairs, column by column."""
    count, names = len(pairs), pairs.pairs.names
    texts = {
        "run": (run for _ in range(count)),
        "clip_id": (item.clip for item in pairs.pairs.items),
        "action_id": (item.id for item in pairs.pairs.items),
        "frame": iter(names),
    }
    columns = {name: pa.array(column, pa.string(), size=count) for name, column in texts.items()}
    places = np.argsort(names.order)  # of the pairs, in the order of the names
    for metric, measured in metrics.items():
        if values := measured.result.values:
            columns[metric] = pa.array(np.fromiter(values.values(), np.float64, count)[places])
        if captions := measured.result.captions:
            seen = (captions[name] for name in names)
            columns[f"{metric}_caption"] = pa.array(seen, pa.string(), size=count)
    return pa.table(columns)
