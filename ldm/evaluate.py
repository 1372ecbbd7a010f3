"""Measures generated frames against their targets; writes metric/ beside the images and prints a table.

Results of the same images and settings are kept: naming further metrics later adds to them.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from egogen.annotations import DESCRIPTION_KEY
from egogen.cli import parser, run
from ldm.metrics import evaluation, results
from ldm.metrics.metric import Setting
from ldm.metrics.pairs import Batch, Pairs, run_folder
from ldm.metrics.protocol import PROTOCOLS
from ldm.metrics.published import published_results
from ldm.metrics.registry import METRICS, choose
from ldm.report.table import Table, column, measured, published

log = logging.getLogger(__name__)


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parses the command line; the first five flags are the published ones."""
    made = parser("python -m ldm.evaluate", __doc__)
    made.add_argument("--dataset", required=True, help="ego4d or epickitchen")
    made.add_argument("--gen_path", required=True, type=Path, help="a run with images/, or its images folder")
    made.add_argument("--gt_path", required=True, type=Path, help="the val_gt_for_metric folder")
    made.add_argument("--edit_file", required=True, type=Path, help="the annotation file")
    made.add_argument(
        "--llava_key", default=DESCRIPTION_KEY, help="its key of the text that caption metrics compare with"
    )
    made.add_argument(
        "--metrics", help=f"comma-separated: {','.join(METRICS)}; without it, all that the inputs allow"
    )
    made.add_argument("--metadata", type=Path, help="metadata file, for metrics that look at scenes")
    made.add_argument("--protocol", default=PROTOCOLS[0], help=" or ".join(PROTOCOLS))
    made.add_argument("--batch-size", type=int, default=32, help="pairs at a time; changes no result")
    made.add_argument("--device", default="auto", help="auto, cpu or a GPU such as cuda:0")
    made.add_argument("--name", help="the system's name in tables; without it, the run folder's")
    return made.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Pairs, measures what is not known yet, writes, prints."""
    args = arguments(argv)
    setting = evaluation.make_setting(args.dataset, args.metadata, args.llava_key, args.protocol, args.device)
    chosen = choose(args.metrics.split(",") if args.metrics else None, setting)
    batch_size = evaluation.check_batch_size(args.batch_size)
    pairs = evaluation.pair(setting, args.gen_path, args.gt_path, args.edit_file)
    folder = run_folder(args.gen_path)
    origins = {name: evaluation.provenance(metric, pairs, setting) for name, metric in METRICS.items()}
    known = results.known(folder, origins)
    missing = [metric for metric in chosen if metric.name not in known]
    log.info("%d pairs; measuring %s", len(pairs), ", ".join(m.name for m in missing) or "nothing new")
    if missing:
        batches = shown(pairs.batches(batch_size, setting.device), len(pairs))
        known |= evaluation.measure(batches, missing, setting)
    ordered = {name: (METRICS[name], known[name], origins[name]) for name in METRICS if name in known}
    results.write(folder, about(args, setting, pairs, args.name or folder.name), ordered)
    sys.stdout.write(summary(results.read_details(folder)))
    log.info("written: %s", results.metric_path(folder))


def shown(batches: Iterable[Batch], total: int) -> Iterator[Batch]:
    """Passes batches on and moves a progress bar in a terminal."""
    with tqdm(total=total, unit="pair", disable=None) as bar:
        for batch in batches:
            yield batch
            bar.update(len(batch.pairs))


def about(args: argparse.Namespace, setting: Setting, pairs: Pairs, name: str) -> dict[str, Any]:
    """What the evaluation was, for `details.json`."""
    return {
        "name": name,
        "dataset": setting.dataset,
        "protocol": setting.protocol,
        "n": len(pairs),
        "image_formats": list(pairs.formats),
        "gen_path": str(args.gen_path),
        "gt_path": str(args.gt_path),
        "edit_file": str(args.edit_file),
        "metadata": None if args.metadata is None else str(args.metadata),
        "llava_key": setting.llava_key,
        "device": str(setting.device),
    }


def summary(details: dict[str, Any]) -> str:
    """The table for the terminal: this run above the paper's numbers."""
    entries = details["metrics"]
    columns = [column(name, entry) for name, entry in entries.items()]
    paper = published(published_results(details["dataset"]), columns)
    table = Table(columns, [measured(details["name"], entries), *paper])
    lines = [
        f"{details['dataset']}: {details['n']} pairs, {details['protocol']} protocol, mean ± standard error"
    ]
    lines.append(table.text())
    lines += [
        f"{entry['infinite']} of {entry['n']} frames equal their target: {entry['title']} is infinite there"
        + (f", {entry['finite_mean']:.2f} on average elsewhere" if entry["finite_mean"] is not None else "")
        for entry in entries.values()
        if entry["infinite"]
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    run(main)
