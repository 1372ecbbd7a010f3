"""From folders of frames to numbers: pair, decode once, let every metric see every batch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from egogen.annotations import DESCRIPTION_KEY, Annotations, read_metadata
from egogen.errors import UserError
from egogen.layout import FOLDERS
from ldm.metrics.metric import Metric, Result, Setting
from ldm.metrics.pairs import Batch, Pairs, read_pairs
from ldm.metrics.protocol import check_protocol, size_tolerance
from ldm.metrics.registry import choose

# Packages that decide what an image decodes to and how a number is computed.
PACKAGES = ("torch", "torchmetrics", "pillow", "numpy")


def evaluate(
    dataset: str,
    gen_path: Path,
    gt_path: Path,
    edit_file: Path,
    *,
    metrics: Sequence[str] | None = None,
    metadata: Path | None = None,
    llava_key: str = DESCRIPTION_KEY,
    protocol: str = "published",
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
        protocol: `published` or `corrected`.
        batch_size: pairs at a time; no result depends on it.
        device: such as `cpu`, `cuda:0` or `auto`.

    Returns:
        Results by metric name.

    Raises:
        UserError: a setting, a file or an image is not as expected.
    """
    setting = make_setting(dataset, metadata, llava_key, protocol, device)
    chosen = choose(metrics, setting)
    pairs = pair(setting, gen_path, gt_path, edit_file)
    return measure(pairs.batches(check_batch_size(batch_size), setting.device), chosen, setting)


def make_setting(dataset: str, metadata: Path | None, llava_key: str, protocol: str, device: str) -> Setting:
    """Checks what the user chose and reads the metadata.

    Raises:
        UserError: a choice is not allowed.
    """
    if dataset not in FOLDERS:
        raise UserError(f"data set {dataset!r}: allowed are {', '.join(FOLDERS)}")
    facts = None if metadata is None else read_metadata(metadata)
    return Setting(dataset, check_protocol(protocol), find_device(device), facts, llava_key)


def find_device(name: str) -> torch.device:
    """The device of a name; `auto` is a GPU where there is one.

    Raises:
        UserError: there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.zeros(1, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"device {name!r}: {reason}; allowed are auto, cpu or a GPU such as cuda:0") from None


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
        UserError: see `ldm.metrics.pairs.read_pairs`.
    """
    tolerance = size_tolerance(setting.protocol, setting.dataset)
    return read_pairs(Annotations.read(edit_file), gen_path, gt_path, tolerance)


@torch.no_grad()
def measure(batches: Iterable[Batch], metrics: Sequence[Metric], setting: Setting) -> dict[str, Result]:
    """Computes metrics over batches.

    Raises:
        UserError: a metric lacks what it needs; before the first batch is read.
    """
    opened = {metric.name: metric.open(setting) for metric in metrics}
    for batch in batches:
        for accumulator in opened.values():
            accumulator.update(batch)
    return {name: accumulator.compute() for name, accumulator in opened.items()}


def provenance(metric: Metric, pairs: Pairs, setting: Setting) -> dict[str, Any]:
    """Everything that decides a metric's value, as JSON: a stored result is valid while this is unchanged."""
    return {
        "images_sha256": pairs.sha256,
        "dataset": setting.dataset,
        "protocol": setting.protocol,
        "versions": {name: version(name) for name in dict.fromkeys([*PACKAGES, metric.library])},
        **metric.inputs(setting),
    }
