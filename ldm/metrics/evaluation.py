"""From folders of frames to numbers: pair, decode once, let every metric see every batch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch

from egogen.annotations import DESCRIPTION_KEY, Annotations, read_metadata
from egogen.errors import UserError
from egogen.layout import FOLDERS, weights_root
from ldm.metrics.feature_cache import Memory, Store
from ldm.metrics.frames.frame_pairs import Batch, Pairs, read_pairs
from ldm.metrics.frames.protocol import check_precision, check_protocol, size_tolerance, tensor_cores
from ldm.metrics.metric import Metric, Result, Setting
from ldm.metrics.networks.weight_files import locate, locate_all, sha256
from ldm.metrics.registry import choose
from ldm.networks.devices import find_device

# Packages that decide what an image decodes to and how a number is computed.
PACKAGES = ("torch", "torchmetrics", "pillow", "numpy")
DEFINITIONS = 1  # goes up when a metric's own code changes its values: older results are measured again


def evaluate(  # noqa: PLR0913 - an argument for each flag of the command
    dataset: str,
    gen_path: Path,
    gt_path: Path,
    edit_file: Path,
    *,
    metrics: Sequence[str] | None = None,
    metadata: Path | None = None,
    llava_key: str = DESCRIPTION_KEY,
    input_path: Path | None = None,
    weights: Path | None = None,
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
        precision: of networks: `32`, `tf32` or `bf16`.
        batch_size: pairs at a time; no result depends on it.
        device: such as `cpu`, `cuda:0` or `auto`.

    Returns:
        Results by metric name.

    Raises:
        UserError: a setting, a file or an image is not as expected.
    """
    setting = make_setting(
        dataset, metadata, protocol, precision, device, llava_key=llava_key, input_path=input_path
    )
    chosen = choose(metrics, setting)
    setting = with_weights(setting, chosen, weights or weights_root())
    pairs = pair(setting, gen_path, gt_path, edit_file)
    return measure(pairs, chosen, setting, check_batch_size(batch_size))


def make_setting(
    dataset: str,
    metadata: Path | None,
    protocol: str,
    precision: str,
    device: str,
    **more: Any,  # noqa: ANN401
) -> Setting:
    """Checks what the user chose and reads the metadata.

    Args:
        dataset: as `evaluate` takes it, like the others.
        metadata: a file.
        protocol: by name.
        precision: by name.
        device: by name.
        more: further fields of the setting.

    Raises:
        UserError: a choice is not allowed.
    """
    if dataset not in FOLDERS:
        raise UserError(f"data set {dataset!r}: allowed are {', '.join(FOLDERS)}")
    facts = None if metadata is None else read_metadata(metadata)
    return Setting(
        dataset, check_protocol(protocol), find_device(device), check_precision(precision), facts, **more
    )


def with_weights(setting: Setting, metrics: Sequence[Metric], root: Path) -> Setting:
    """A setting that knows where the weights of some metrics lie.

    Raises:
        UserError: some are missing; names all of them.
    """
    files = [file for metric in metrics for file in metric.weights(setting)]
    return replace(setting, weights=locate_all(root, files))


def check_batch_size(size: int) -> int:
    """Returns a batch size unchanged.

    Raises:
        UserError: it is below 1.
    """
    if size < 1:
        raise UserError(f"batch size {size}: expected at least 1")
    return size


def pair(setting: Setting, gen_path: Path, gt_path: Path, edit_file: Path) -> Pairs:
    """Pairs the frames under a setting's protocol.

    Raises:
        UserError: see `ldm.metrics.frames.frame_pairs.read_pairs`.
    """
    tolerance = size_tolerance(setting.protocol, setting.dataset)
    return read_pairs(Annotations.read(edit_file), gen_path, gt_path, tolerance)


class Stores(NamedTuple):
    """Files in which vectors are kept: those of generated frames for a run, those of targets for all runs."""

    generated: Store | None = None
    reference: Store | None = None


def measure(
    pairs: Pairs,
    metrics: Sequence[Metric],
    setting: Setting,
    batch_size: int,
    stores: Stores | None = None,
    shown: Callable[[Iterable[Batch]], Iterable[Batch]] = iter,
) -> dict[str, Result]:
    """Computes metrics over pairs.

    Args:
        pairs: what to measure.
        metrics: by what.
        setting: how.
        batch_size: pairs at a time.
        stores: what is in them is not computed again.
        shown: passes batches on, with a progress bar perhaps.

    Raises:
        UserError: a metric lacks what it needs; before the first batch is read.
    """
    opened = {
        metric.name: metric.open(setting, pairs, Memory(kind(metric, setting), *(stores or Stores())))
        for metric in metrics
    }
    with torch.no_grad(), tensor_cores(setting.precision):
        for batch in shown(pairs.batches(batch_size, setting.device)):
            for accumulator in opened.values():
                accumulator.update(batch)
        return {name: accumulator.compute() for name, accumulator in opened.items()}


def provenance(metric: Metric, pairs: Pairs, setting: Setting) -> dict[str, Any]:
    """Everything that decides a metric's value, as JSON: a stored result is valid while this is unchanged.

    Raises:
        UserError: a file that belongs to it is missing.
    """
    return {
        **images(pairs),
        **circumstances(metric, setting),
        **{file.name: sha256(setting.weights[file.name]) for file in metric.weights(setting)},
        **metric.inputs(setting, pairs),
    }


def provenance_at_hand(metric: Metric, pairs: Pairs, setting: Setting, root: Path) -> dict[str, Any]:
    """The same for a metric that is not asked for: files that are not here say nothing against it."""
    hashes: dict[str, str] = {}
    for file in metric.weights(setting):
        with suppress(UserError):  # two files of one name; the metrics that ask for them tell of it
            path = locate(root, file)
            hashes |= {} if path is None else {file.name: sha256(path)}
    try:
        inputs = metric.inputs(setting, pairs)
    except UserError:
        inputs = {}
    return {**images(pairs), **circumstances(metric, setting), **hashes, **inputs}


def images(pairs: Pairs) -> dict[str, str]:
    """The part of a metric's provenance that tells the images."""
    return {"images_sha256": pairs.sha256, "targets_sha256": pairs.targets_sha256}


def circumstances(metric: Metric, setting: Setting) -> dict[str, Any]:
    """The part of a metric's provenance that needs no files."""
    return {
        "dataset": setting.dataset,
        "protocol": setting.protocol,
        "precision": setting.precision,
        "definitions": DEFINITIONS,
        "versions": {name: version(name) for name in dict.fromkeys([*PACKAGES, *metric.libraries])},
    }


def kind(metric: Metric, setting: Setting) -> str:
    """Names what computes a metric's vectors: its circumstances and weights, whatever the images."""
    weights = {file.name: sha256(setting.weights[file.name]) for file in metric.weights(setting)}
    text = json.dumps([metric.name, circumstances(metric, setting), weights], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
