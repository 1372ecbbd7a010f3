"""From folders of frames to numbers: pair, decode once, let every metric see every batch."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache
from importlib.metadata import version
from pathlib import Path

import torch

from egogen.annotations import Annotations, read_metadata
from egogen.errors import UserError
from egogen.layout import DESCRIPTION_KEY, FOLDERS, run_root, weights_root
from egogen.progress import Progress
from egogen.shard_claims import Work
from egogen.shards import WHOLE, Shard
from ldm.metrics.feature_cache import Memory, Store
from ldm.metrics.frames.frame_pairs import Pairs, frames_folder, read_pairs, run_folder
from ldm.metrics.frames.protocol import choose_precision, fewer_bits, size_tolerance
from ldm.metrics.metric import Accumulator, Metric, MetricSetting, Result
from ldm.metrics.metric_names import PROTOCOLS, choice
from ldm.metrics.networks.metric_weights import locate, locate_all, sha256
from ldm.metrics.registry import METRICS, choose
from ldm.metrics.results import result_files as results
from ldm.metrics.results.result_files import Measured
from ldm.networks.devices import find_device

log = logging.getLogger(__name__)
# Packages that decide what an image decodes to and how a number is computed.
PACKAGES = ("torch", "torchmetrics", "pillow", "numpy")
DEFINITIONS = 1  # goes up when a metric's own code changes its values: older results are measured again


def evaluate(  # noqa: PLR0913 - an argument for each flag of the command
    dataset: str,
    gen_path: Path | str,
    gt_path: Path | str,
    edit_file: Path | str,
    *,
    metrics: Sequence[str] | None = None,
    metadata: Path | str | None = None,
    llava_key: str = DESCRIPTION_KEY,
    input_path: Path | str | None = None,
    weights: Path | str | None = None,
    protocol: str = "published",
    precision: str = "32",
    batch_size: int = 32,
    device: str = "cpu",
) -> dict[str, Result]:
    """Measures a folder of generated frames; reads files and writes none.

    Args:
        dataset: `ego4d` or `epickitchen`.
        gen_path: a run folder (with `images/`) or the folder of images itself.
        gt_path: `val_gt_for_metric`.
        edit_file: annotations.
        metrics: names; None for all that apply.
        metadata: metadata file, for metrics that need it.
        llava_key: the annotations' key of the text that caption metrics compare with.
        input_path: folder of the split's frames; None for `val` beside the targets.
        weights: folder of weight files; None for `WEIGHTS_ROOT`.
        protocol: `published` or `corrected`.
        precision: of networks: `32`, `tf32`, `tiles`, `bf16` or `auto`.
        batch_size: pairs at a time; no result depends on it.
        device: such as `cpu`, `cuda:0` or `auto`.

    Returns:
        Results by metric name; values of single frames in a `dict` each.

    Raises:
        UserError: a setting, a file or an image is not as expected.
    """
    setting, chosen = prepare(
        dataset, [metrics] if isinstance(metrics, str) else metrics,
        None if metadata is None else Path(metadata), protocol, precision, device, llava_key,
        None if input_path is None else Path(input_path), Path(weights or weights_root()), batch_size,
    )  # fmt: skip
    made = measure(pair(setting, Path(gen_path), Path(gt_path), Path(edit_file)), chosen, setting)
    return {name: replace(result, values=dict(result.values)) for name, result in made.items()}


def prepare(
    dataset: str,
    metrics: Sequence[str] | None,
    metadata: Path | None,
    protocol: str,
    precision: str,
    device: str,
    llava_key: str,
    input_path: Path | None,
    weights: Path,
    batch_size: int,
) -> tuple[MetricSetting, list[Metric]]:
    """Checks what the user chose, as `evaluate` takes it; reads the metadata and finds the weights.

    Raises:
        UserError: a choice is not allowed, or weights are missing; names all of them.
    """
    if batch_size < 1:
        raise UserError(f"batch size {batch_size}: expected at least 1")
    facts = None if metadata is None else read_metadata(metadata)
    place = find_device(device)
    setting = MetricSetting(
        choice("data set", dataset, FOLDERS), choice("protocol", protocol, PROTOCOLS), place,
        choose_precision(precision, place), facts, metadata, llava_key, input_path, batch_size, weights,
    )  # fmt: skip
    chosen = choose(metrics, setting)
    files = [file for metric in chosen for file in metric.weights(setting)]
    return replace(setting, weights=locate_all(weights, files)), chosen


def pair(
    setting: MetricSetting, gen_path: Path, gt_path: Path, edit_file: Path, shard: Shard = WHOLE
) -> Pairs:
    """Pairs the frames of a shard under a setting's protocol, as `read_pairs` does."""
    tolerance = size_tolerance(setting.protocol, setting.dataset)
    return read_pairs(Annotations.read(edit_file).of(setting.dataset), gen_path, gt_path, tolerance, shard)


def pair_runs(
    setting: MetricSetting, gen_paths: Sequence[Path], gt_path: Path, edit_file: Path
) -> list[Pairs]:
    """Pairs all frames of several runs as `pair` does; annotations and targets are read once."""
    annotations = Annotations.read(edit_file).of(setting.dataset)
    tolerance = size_tolerance(setting.protocol, setting.dataset)
    found: list[Pairs] = []
    for path in gen_paths:
        known = found[0].pairs if found else None
        found.append(read_pairs(annotations, path, gt_path, tolerance, known=known))
    return found


def measure(
    pairs: Pairs, metrics: Sequence[Metric], setting: MetricSetting, memory: Memory | None = None
) -> dict[str, Result]:
    """Computes metrics over pairs; what is in the stores of a memory is not computed again.

    Values of single frames are mappings that stand on arrays, and no dictionaries.

    Raises:
        UserError: a metric lacks what it needs; before the first batch is read.
    """
    for metric in metrics:
        if len(pairs) < metric.fewest:
            raise UserError(
                f"metric {metric.name!r}: {len(pairs)} frame; it compares two sets, of at least "
                f"{metric.fewest} frames each"
            )
    with torch.no_grad(), fewer_bits(setting.precision):
        seen = see(pairs, metrics, setting, memory or Memory())
        return {name: accumulator.compute() for name, accumulator in seen.items()}


def see(
    pairs: Pairs,
    metrics: Sequence[Metric],
    setting: MetricSetting,
    memory: Memory,
    told: Callable[[int], object] | None = None,
) -> dict[str, Accumulator]:
    """Lets metrics see all pairs; `told` is called with the number of those that they have seen."""
    opened = {
        metric.name: metric.open(setting, pairs, memory._replace(kind=kind(metric, setting)))
        for metric in metrics
    }
    with Progress(total=len(pairs), unit="pair", also=told) as bar:
        for batch in pairs.batches(setting.batch_size, setting.device):
            for accumulator in opened.values():
                accumulator.update(batch)
            bar.update(len(batch.pairs))
    return opened


def measure_shard(
    gen_path: Path,
    pair_up: Callable[[Shard], Pairs],
    metrics: Sequence[Metric],
    setting: MetricSetting,
    work: Work,
) -> None:
    """Keeps what metrics see in the pairs of a shard; `measure_run` joins the shards."""
    pairs = pair_up(work.shard)
    work.begin(len(pairs), 0)
    store = Store(run_folder(gen_path) / results.SHARDS / f"{work.shard.name}.sqlite")
    with torch.no_grad(), fewer_bits(setting.precision):
        see(pairs, metrics, setting, Memory("", store, store), work.advance)


def missing_metrics(
    gen_path: Path, pairs: Pairs, metrics: Sequence[Metric], setting: MetricSetting
) -> list[Metric]:
    """Those of the metrics that are not known of a run."""
    asked = {metric.name: provenance(metric, pairs, setting) for metric in metrics}
    found = results.known(run_folder(gen_path), asked, pairs)
    return [metric for metric in metrics if metric.name not in found]


def measure_run(
    gen_path: Path, name: str, pairs: Pairs, metrics: Sequence[Metric], setting: MetricSetting, resamples: int
) -> dict[str, Measured]:
    """Measures what is not known of a run yet and writes its files; results of other metrics are kept."""
    folder = run_folder(gen_path)
    asked = {metric.name: provenance(metric, pairs, setting) for metric in metrics}
    others = {
        each: provenance_at_hand(METRICS[each], pairs, setting)
        for each in results.stored_names(folder) & METRICS.keys() - asked.keys()
    }
    found = results.known(folder, asked | others, pairs)
    missing = [metric for metric in metrics if metric.name not in found]
    told = ", ".join(metric.name for metric in missing) or "nothing new"
    log.info("%s: %d pairs; measuring %s", name, len(pairs), told)
    if missing:
        own = Store(folder / results.PROGRESS)
        shards = sorted((folder / results.SHARDS).glob("*.sqlite"))
        for shard in shards:
            own.take(shard)
        targets = own if shards else Store(run_root() / "cache" / "metrics.sqlite")
        made = measure(pairs, missing, setting, Memory("", own, targets))
        found |= {each: Measured(METRICS[each], result, asked[each]) for each, result in made.items()}
    ordered = {each: found[each] for each in METRICS if each in found}
    results.write(folder, about(setting, pairs, gen_path, name), ordered, pairs, resamples)
    (folder / results.PROGRESS).unlink(missing_ok=True)
    shutil.rmtree(folder / results.SHARDS, ignore_errors=True)
    log.info("%s: written %s", name, folder / results.PUBLISHED)
    return ordered


def about(setting: MetricSetting, pairs: Pairs, gen_path: Path, name: str) -> dict[str, object]:
    """What the evaluation was, for `details.json`."""
    return {
        "name": name,
        "dataset": setting.dataset,
        "protocol": setting.protocol,
        "n": len(pairs),
        "image_formats": list(pairs.formats),
        "gen_path": str(gen_path),
        "images": frames_folder(gen_path).absolute().name,  # beside `metric/`
        "gt_path": str(pairs.targets),
        "edit_file": str(pairs.source),
        "metadata": None if setting.metadata_file is None else str(setting.metadata_file),
        "llava_key": setting.llava_key,
        "precision": setting.precision,
        "device": str(setting.device),
    }


def provenance(metric: Metric, pairs: Pairs, setting: MetricSetting) -> dict[str, object]:
    """Everything that decides a metric's value, as JSON: a stored result is valid while this is unchanged.

    Raises:
        UserError: a file that belongs to it is missing.
    """
    return {
        **pairs.digests,
        **circumstances(metric, setting),
        **{file.name: sha256(setting.weights[file.name]) for file in metric.weights(setting)},
        **metric.inputs(setting, pairs),
    }


def provenance_at_hand(metric: Metric, pairs: Pairs, setting: MetricSetting) -> dict[str, object]:
    """The same for a metric that is not asked for: files that are not here say nothing against it."""
    found: dict[str, object] = {**pairs.digests, **circumstances(metric, setting)}
    for file in metric.weights(setting):
        with suppress(UserError):  # two files of one name; the metrics that ask for them tell of it
            path = locate(setting.root, file)
            found |= {} if path is None else {file.name: sha256(path)}
    with suppress(UserError):
        found |= metric.inputs(setting, pairs)
    return found


def circumstances(metric: Metric, setting: MetricSetting) -> dict[str, object]:
    """The part of a metric's provenance that needs no files."""
    return {
        "dataset": setting.dataset,
        "protocol": setting.protocol,
        "precision": setting.precision,
        "definitions": DEFINITIONS,
        "versions": {name: version_of(name) for name in dict.fromkeys([*PACKAGES, *metric.libraries])},
    }


@cache
def version_of(package: str) -> str:
    """The installed version; its file, which every metric asks for, takes milliseconds to read."""
    return version(package)


def kind(metric: Metric, setting: MetricSetting) -> str:
    """Names what computes a metric's vectors: its circumstances and weights, whatever the images."""
    weights = {file.name: sha256(setting.weights[file.name]) for file in metric.weights(setting)}
    text = json.dumps([metric.name, circumstances(metric, setting), weights], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def digest_of(metrics: Sequence[Metric], setting: MetricSetting) -> str:
    """Names several metrics as they are computed."""
    kinds = sorted(kind(metric, setting) for metric in metrics)
    return hashlib.sha256(" ".join(kinds).encode()).hexdigest()[:16]
