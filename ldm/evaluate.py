"""Measures generated frames against their targets; writes metric/ beside the images and prints a table.

Results of the same images and settings are kept: naming further metrics later adds to them.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from egogen import cli
from egogen.cli import flag
from egogen.errors import UserError
from egogen.hints import require
from egogen.layout import DESCRIPTION_KEY, FOLDERS, weights_root
from egogen.shards import SHARD, parse_auto, parse_shard, process
from ldm.metrics.metric_names import KEYS, PRECISIONS, PROTOCOLS, choice, metric_names
from ldm.networks.devices import HELP
from ldm.report.report_options import PUBLISHED

if TYPE_CHECKING:
    from ldm.metrics.metric import Metric, MetricSetting

log = logging.getLogger(__name__)

TABLES = (".parquet", ".csv")
MOST_RESAMPLES = 1_000_000  # of an interval: more change no digit that is shown, and take hours


@dataclass(frozen=True)
class EvaluateOptions:
    """The first five flags are the published ones."""

    dataset: str = flag("ego4d or epickitchen", required=True)
    gen_path: list[Path] = flag(
        "runs with images/, or their images folders", spelled=("--gen_path",), metavar="RUN", type=Path,
        nargs="+", required=True,
    )  # fmt: skip
    gt_path: Path = flag("the val_gt_for_metric folder", spelled=("--gt_path",), type=Path, required=True)
    edit_file: Path = flag("the annotation file", spelled=("--edit_file",), type=Path, required=True)
    llava_key: str = flag(
        "its key of the text that caption metrics compare with", spelled=("--llava_key",),
        default=DESCRIPTION_KEY,
    )  # fmt: skip
    metrics: list[str] | None = flag(
        f"comma-separated: {','.join(KEYS)}; without it, all but those that ask for --metadata",
        type=lambda words: [name.strip() for name in words.split(",")],
    )
    metadata: Path | None = flag("metadata file, for metrics that look at scenes", type=Path)
    input_path: Path | None = flag(
        "folder of the split's frames [val beside --gt_path]", spelled=("--input_path",), type=Path
    )
    weights: Path = flag("folder of weights (WEIGHTS_ROOT)", type=Path, default=weights_root)
    protocol: str = flag(" or ".join(PROTOCOLS), default=PROTOCOLS[0])
    precision: str = flag(
        f"of networks: {', '.join(PRECISIONS)}; tf32 (GPUs), tiles (CPUs) and bf16 are faster and less exact",
        default=PRECISIONS[0],
    )
    batch_size: int = flag("pairs at a time; changes no result", type=int, default=32)
    device: str = flag(HELP, default="auto")
    name: list[str] | None = flag("the runs' names in tables; without it, their folders'", nargs="+")
    per_sample: Path | None = flag("write a row for each frame", type=Path, metavar="FILE.parquet|csv")
    shard: str | None = flag(
        f"{SHARD}. Without it torchrun's processes share the work; i/n measures that shard, and the command "
        "without it joins them", metavar="I/N|auto",
    )  # fmt: skip
    published: str | None = flag(PUBLISHED, metavar="DATASET")
    bootstrap: int = flag("resamples; 0 for no intervals", type=int, default=1000, metavar="N")

    @property
    def shards(self) -> str | None:
        """The flag; torchrun's processes claim as many shards as they are."""
        together = process().world_size
        return f"auto/{together}" if self.shard is None and together > 1 else self.shard

    def __post_init__(self) -> None:
        choice("data set", self.dataset, FOLDERS)
        choice("protocol", self.protocol, PROTOCOLS)
        choice("precision", self.precision, PRECISIONS)
        metric_names(self.metrics or ())
        check_runs(self.gen_path)
        for place in (self.gt_path, self.edit_file):
            require(place)
        if self.shard is not None and parse_auto(self.shard) is None:
            parse_shard(self.shard)
        if not 0 <= self.bootstrap <= MOST_RESAMPLES:
            raise UserError(f"--bootstrap {self.bootstrap}: expected 0 to {MOST_RESAMPLES} resamples")
        if self.per_sample and self.per_sample.suffix.lower() not in TABLES:
            raise UserError(
                f"--per-sample {self.per_sample}: expected a name that ends in {' or '.join(TABLES)}"
            )
        if self.per_sample and self.per_sample.resolve() in {
            place.resolve() for place in (self.edit_file, self.metadata) if place
        }:
            raise UserError(f"--per-sample {self.per_sample}: is read; name another file to write")


def main(argv: Sequence[str] | None = None) -> None:
    """Measures each run, then prints them in one table."""
    options = cli.options(EvaluateOptions, argv, "python -m ldm.evaluate", __doc__)
    from egogen.locks import hold
    from ldm.metrics import evaluation
    from ldm.metrics.frames.frame_pairs import run_folder
    from ldm.metrics.results import result_files as results
    from ldm.metrics.results import samples

    titles = run_names(options.gen_path, options.name)
    setting, metrics = evaluation.prepare(
        options.dataset, options.metrics, options.metadata, options.protocol, options.precision,
        options.device, options.llava_key, options.input_path, options.weights, options.batch_size,
    )  # fmt: skip
    for path in options.gen_path:
        results.prepare(run_folder(path))
    if options.shards is not None and not share_work(options, options.shards, setting, metrics):
        return
    # All are checked before the first is measured.
    runs = evaluation.pair_runs(setting, options.gen_path, options.gt_path, options.edit_file)
    with ExitStack() as held:
        for path in options.gen_path:
            place, wait = run_folder(path) / results.FOLDER, options.shards is not None
            held.enter_context(hold(place, "an evaluation", wait=wait))
        done = [
            evaluation.measure_run(path, title, pairs, metrics, setting, options.bootstrap)
            for path, title, pairs in zip(options.gen_path, titles, runs, strict=True)
        ]
        if options.per_sample:
            samples.write(options.per_sample, dict(zip(titles, zip(runs, done, strict=True), strict=True)))
            log.info("written %s", options.per_sample)
        details = [results.read_details(run_folder(path)) for path in options.gen_path]
    sys.stdout.write(summary(details, options.published))


def share_work(
    options: EvaluateOptions, shards: str, setting: MetricSetting, metrics: Sequence[Metric]
) -> bool:
    """Measures this process's part of each run; returns whether it is to join them, which are whole then."""
    from egogen.locks import hold
    from egogen.shard_claims import Claims
    from ldm.metrics import evaluation
    from ldm.metrics.frames.frame_pairs import run_folder
    from ldm.metrics.results.result_files import DETAILS, FOLDER

    count = parse_auto(shards)
    if count is None and process(share_is_named=True).world_size > 1:
        raise UserError("--shard i/n: not under torchrun, whose processes share the work; --shard auto is")
    for path in options.gen_path:
        pair = partial(evaluation.pair, setting, path, options.gt_path, options.edit_file)
        left = metrics
        if (run_folder(path) / DETAILS).exists():
            left = evaluation.missing_metrics(path, pair(), metrics, setting)
        measure = partial(evaluation.measure_shard, path, pair, left, setting)
        folder = run_folder(path) / FOLDER
        about = evaluation.digest_of(left, setting)
        if left and count is not None:
            Claims(folder, count, together=True, about=about).take(measure)
        elif left:
            shard = parse_shard(shards)
            claims = Claims(folder, shard.total, about=about)
            with hold(folder, "an evaluation", shard.name), claims.own(shard) as work:
                measure(work)
            log.info("%s: shard %s is measured; the same without --shard joins all of them", path, shard)
    return count is not None and process(options.shard is not None).rank == 0


def check_runs(paths: Sequence[Path]) -> None:
    """Raises a `UserError` for a run that is not there, or is a folder of several."""
    for path in paths:
        if not path.is_dir():
            raise UserError(f"{path}: no such run; draw it by python -m ldm.sample --out {run_of(path)}")
        within = sorted(each.name for each in path.iterdir() if (each / "images").is_dir())
        if within and not (path / "images").is_dir():  # drawn with several scales
            raise UserError(f"{path}: holds {len(within)} runs; name them: {', '.join(within[:4])}")


def run_names(paths: Sequence[Path], given: Sequence[str] | None) -> list[str]:
    """Names of runs, by default those of their folders.

    Raises:
        UserError: there are too few or too many names, one names two runs, two runs write to one folder, or a
            run is not there.
    """
    from ldm.metrics.frames.frame_pairs import run_folder
    from ldm.metrics.results.result_files import FOLDER

    check_runs(paths)
    names = list(given or (run_folder(path).absolute().name for path in paths))
    if len(names) != len(paths):
        raise UserError(f"--name: found {len(names)} names for {len(paths)} runs; give one for each")
    folders = [run_folder(path).resolve() for path in paths]
    for path, folder in zip(paths, folders, strict=True):
        first = paths[folders.index(folder)]
        if first is not path:
            raise UserError(
                f"{first} and {path}: the results of both would be in {folder / FOLDER}; "
                "give each run a folder of its own with images/"
            )
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if twice:
        raise UserError(f"the name {twice[0]!r} is that of two runs; name them apart by --name")
    return names


def run_of(path: Path) -> Path:
    """The run that a path was to be of: itself, or where it ends in images/ the folder above."""
    return path.parent if path.name == "images" else path


def summary(details: Sequence[Any], paper: str | None) -> str:
    """The table for the terminal: the runs above the paper's numbers, unless these are not wanted."""
    from ldm.report.formats import text
    from ldm.report.results_table import make_table

    first = details[0]
    lines = [
        f"{first['dataset']}: {first['n']} pairs, {first['protocol']} protocol, mean ± standard error",
        text(make_table(details, paper)),
    ]
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
    cli.run(main)
