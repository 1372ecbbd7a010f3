"""Measures generated frames against their targets; writes metric/ beside the images and prints a table.

Results of the same images and settings are kept: naming further metrics later adds to them.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tqdm import tqdm

from egogen.annotations import DESCRIPTION_KEY
from egogen.cli import parser, run
from egogen.errors import UserError
from egogen.layout import run_root, weights_root
from egogen.locks import hold
from ldm.metrics import evaluation
from ldm.metrics.evaluation import Stores
from ldm.metrics.feature_cache import Store
from ldm.metrics.frames.frame_pairs import Batch, Pairs, frames_folder, run_folder
from ldm.metrics.frames.protocol import PRECISIONS, PROTOCOLS
from ldm.metrics.metric import Metric, Setting
from ldm.metrics.registry import METRICS, choose
from ldm.metrics.results import result_files as results
from ldm.metrics.results import samples
from ldm.metrics.results.result_files import Measured, Stored
from ldm.networks.devices import HELP
from ldm.report.formats import text
from ldm.report.table import NONE, Group, Table, add_published, columns_of, measured, published

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
        "--metrics",
        help=f"comma-separated: {','.join(METRICS)}; without it, all but those that ask for --metadata",
    )
    made.add_argument("--metadata", type=Path, help="metadata file, for metrics that look at scenes")
    made.add_argument("--input_path", type=Path, help="folder of the split's frames [val beside --gt_path]")
    made.add_argument("--weights", type=Path, default=weights_root(), help="folder of weights (WEIGHTS_ROOT)")
    made.add_argument("--protocol", default=PROTOCOLS[0], help=" or ".join(PROTOCOLS))
    made.add_argument(
        "--precision", default=PRECISIONS[0],
        help=f"of networks: {' or '.join(PRECISIONS)}; tf32 (on GPUs) and bf16 are faster and less exact",
    )  # fmt: skip
    made.add_argument("--batch-size", type=int, default=32, help="pairs at a time; changes no result")
    made.add_argument("--device", default="auto", help=HELP)
    made.add_argument("--name", nargs="+", help="the runs' names in tables; without it, their folders'")
    made.add_argument("--per-sample", type=Path, metavar="FILE.parquet", help="write a row for each frame")
    add_published(made)
    made.add_argument(
        "--bootstrap", type=int, default=1000, metavar="N", help="resamples; 0 for no intervals"
    )
    return made.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Measures each run, then prints them in one table."""
    args = arguments(argv)
    setting = evaluation.make_setting(
        args.dataset, args.metadata, args.protocol, args.precision, args.device,
        llava_key=args.llava_key, input_path=args.input_path,
    )  # fmt: skip
    names = None if args.metrics is None else [name.strip() for name in args.metrics.split(",")]
    chosen = choose(names, setting)
    evaluation.check_batch_size(args.batch_size)
    if args.bootstrap < 0:
        raise UserError(f"--bootstrap {args.bootstrap}: expected 0 or more resamples")
    names = run_names(args.gen_path, args.name)
    setting = evaluation.with_weights(setting, chosen, args.weights)
    runs = [
        evaluation.pair(setting, path, args.gt_path, args.edit_file) for path in args.gen_path
    ]  # all are checked before the first is measured
    with ExitStack() as held:
        for path in args.gen_path:
            results.prepare(run_folder(path))
            held.enter_context(hold(run_folder(path) / results.FOLDER, "an evaluation"))
        done = [
            measure_run(args, setting, chosen, path, name, pairs)
            for path, name, pairs in zip(args.gen_path, names, runs, strict=True)
        ]
        if args.per_sample:
            samples.write(args.per_sample, dict(zip(names, zip(runs, done, strict=True), strict=True)))
            log.info("written %s", args.per_sample)
        details = [results.read_details(run_folder(path)) for path in args.gen_path]
    sys.stdout.write(summary(details, args.published))


def run_names(paths: Sequence[Path], given: Sequence[str] | None) -> list[str]:
    """Names of runs, by default those of their folders.

    Raises:
        UserError: there are too few or too many names, one names two runs, or two runs write to one folder.
    """
    names = list(given or (run_folder(path).absolute().name for path in paths))
    if len(names) != len(paths):
        raise UserError(f"--name: found {len(names)} names for {len(paths)} runs; give one for each")
    folders: dict[Path, Path] = {}
    for path in paths:
        folder = run_folder(path).resolve()
        if folder in folders:
            raise UserError(
                f"{folders[folder]} and {path}: the results of both would be in {folder / results.FOLDER}; "
                "give each run a folder of its own with images/"
            )
        folders[folder] = path
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if twice:
        raise UserError(f"the name {twice[0]!r} is that of two runs; name them apart by --name")
    return names


def measure_run(
    args: argparse.Namespace,
    setting: Setting,
    chosen: Sequence[Metric],
    gen_path: Path,
    name: str,
    pairs: Pairs,
) -> dict[str, Measured]:
    """Measures what is not known of a run yet and writes its files.

    Returns:
        Its metrics by name.
    """
    folder = run_folder(gen_path)
    asked = {metric.name: evaluation.provenance(metric, pairs, setting) for metric in chosen}
    stored = results.stored_names(folder)
    others = {
        each: evaluation.provenance_at_hand(metric, pairs, setting, args.weights)
        for each, metric in METRICS.items()
        if each in stored and each not in asked
    }
    found = results.known(folder, asked | others, pairs)
    missing = [metric for metric in chosen if metric.name not in found]
    log.info(
        "%s: %d pairs; measuring %s", name, len(pairs), ", ".join(m.name for m in missing) or "nothing new"
    )
    if missing:
        progress = results.progress_path(folder)
        stores = Stores(Store(progress), Store(run_root() / "cache" / "metrics.sqlite"))
        made = evaluation.measure(
            pairs, missing, setting, args.batch_size, stores, lambda batches: shown(batches, len(pairs))
        )
        found |= {each: Stored(result, asked[each]) for each, result in made.items()}
    ordered = {each: Measured(metric, *found[each]) for each, metric in METRICS.items() if each in found}
    results.write(folder, about(args, setting, pairs, gen_path, name), ordered, pairs, args.bootstrap)
    results.progress_path(folder).unlink(missing_ok=True)
    log.info("%s: written %s", name, results.metric_path(folder))
    return ordered


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
        "images": frames_folder(gen_path).absolute().name,  # beside `metric/`
        "gt_path": str(args.gt_path),
        "edit_file": str(args.edit_file),
        "metadata": None if args.metadata is None else str(args.metadata),
        "llava_key": setting.llava_key,
        "precision": setting.precision,
        "device": str(setting.device),
    }


def summary(details: Sequence[Mapping[str, Any]], paper: str | None) -> str:
    """The table for the terminal: the runs above the paper's numbers, unless these are not wanted."""
    first = details[0]
    columns = columns_of([each["metrics"] for each in details])
    systems = [measured(each["name"], each["metrics"]) for each in details]
    groups = [Group("", systems), *([] if paper == NONE else published(paper or first["dataset"], columns))]
    lines = [f"{first['dataset']}: {first['n']} pairs, {first['protocol']} protocol, mean ± standard error"]
    lines.append(text(Table(columns, groups)))
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
