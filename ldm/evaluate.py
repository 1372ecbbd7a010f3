"""Measures generated frames against their targets; writes metric/ beside the images and prints a table.

Results of the same images and settings are kept: naming further metrics later adds to them.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from egogen.annotations import DESCRIPTION_KEY
from egogen.cli import parser, run
from egogen.errors import UserError
from ldm.metrics import evaluation, results
from ldm.metrics.metric import Metric, Setting
from ldm.metrics.pairs import Batch, Pairs, run_folder
from ldm.metrics.protocol import PROTOCOLS
from ldm.metrics.published import published_results
from ldm.metrics.registry import METRICS, choose
from ldm.report.table import Table, columns_of, measured, published

log = logging.getLogger(__name__)


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parses the command line; the first five flags are the published ones."""
    made = parser("python -m ldm.evaluate", __doc__)
    made.add_argument("--dataset", required=True, help="ego4d or epickitchen")
    made.add_argument(
        "--gen_path", required=True, type=Path, nargs="+", metavar="RUN",
        help="runs with images/, or their images folders",
    )  # fmt: skip
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
    made.add_argument("--name", nargs="+", help="the runs' names in tables; without it, their folders'")
    return made.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Measures each run, then prints them in one table."""
    args = arguments(argv)
    setting = evaluation.make_setting(args.dataset, args.metadata, args.llava_key, args.protocol, args.device)
    chosen = choose(args.metrics.split(",") if args.metrics else None, setting)
    evaluation.check_batch_size(args.batch_size)
    names = args.name or [run_folder(path).name for path in args.gen_path]
    if len(names) != len(args.gen_path):
        raise UserError(f"--name: found {len(names)} names for {len(args.gen_path)} runs; give one for each")
    details = [
        measure_run(args, setting, chosen, path, name)
        for path, name in zip(args.gen_path, names, strict=True)
    ]
    sys.stdout.write(summary(details))


def measure_run(
    args: argparse.Namespace, setting: Setting, chosen: Sequence[Metric], gen_path: Path, name: str
) -> dict[str, Any]:
    """Pairs the frames of a run, measures what is not known yet, writes its files.

    Returns:
        Its `details.json`.
    """
    folder = run_folder(gen_path)
    pairs = evaluation.pair(setting, gen_path, args.gt_path, args.edit_file)
    origins = {each: evaluation.provenance(metric, pairs, setting) for each, metric in METRICS.items()}
    known = results.known(folder, origins)
    missing = [metric for metric in chosen if metric.name not in known]
    log.info(
        "%s: %d pairs; measuring %s", name, len(pairs), ", ".join(m.name for m in missing) or "nothing new"
    )
    if missing:
        batches = shown(pairs.batches(args.batch_size, setting.device), len(pairs))
        known |= evaluation.measure(batches, missing, setting)
    ordered = {each: (METRICS[each], known[each], origins[each]) for each in METRICS if each in known}
    results.write(folder, about(args, setting, pairs, gen_path, name), ordered)
    log.info("%s: written %s", name, results.metric_path(folder))
    return results.read_details(folder)


def shown(batches: Iterable[Batch], total: int) -> Iterator[Batch]:
    """Passes batches on and moves a progress bar in a terminal."""
    with tqdm(total=total, unit="pair", disable=None) as bar:
        for batch in batches:
            yield batch
            bar.update(len(batch.pairs))


def about(
    args: argparse.Namespace, setting: Setting, pairs: Pairs, gen_path: Path, name: str
) -> dict[str, Any]:
    """What the evaluation was, for `details.json`."""
    return {
        "name": name,
        "dataset": setting.dataset,
        "protocol": setting.protocol,
        "n": len(pairs),
        "image_formats": list(pairs.formats),
        "gen_path": str(gen_path),
        "gt_path": str(args.gt_path),
        "edit_file": str(args.edit_file),
        "metadata": None if args.metadata is None else str(args.metadata),
        "llava_key": setting.llava_key,
        "device": str(setting.device),
    }


def summary(details: Sequence[Mapping[str, Any]]) -> str:
    """The table for the terminal: the runs above the paper's numbers."""
    first = details[0]
    columns = columns_of([each["metrics"] for each in details])
    paper = published(published_results(first["dataset"]), columns)
    table = Table(columns, [*(measured(each["name"], each["metrics"]) for each in details), *paper])
    lines = [f"{first['dataset']}: {first['n']} pairs, {first['protocol']} protocol, mean ± standard error"]
    lines.append(table.text())
    lines += [
        f"{each['name']}: {entry['infinite']} of {entry['n']} frames equal their target: {entry['title']} is "
        "infinite there; without them the mean is "
        + ("unknown" if entry["finite_mean"] is None else f"{entry['finite_mean']:.2f}")
        for each in details
        for entry in each["metrics"].values()
        if entry["infinite"]
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    run(main)
