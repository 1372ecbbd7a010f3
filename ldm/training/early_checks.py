"""What can be told of a training run before torch is imported, which takes seconds: no torch here."""

from __future__ import annotations

import math
import re
from pathlib import Path

from egogen.errors import UserError
from egogen.hints import hint
from egogen.published import SPLITS
from ldm.config.sections import TrainConfig


def check_early(config: TrainConfig, gpus: str, resume: Path | None) -> None:
    """Checks that the numbers fit each other, and that the files that are named are there.

    Raises:
        UserError: they do not, or one is missing.
    """
    accumulate(config, (len(gpu_numbers(gpus)) or config.trainer.processes) * config.trainer.nodes)
    check_splits(config)
    start = Path(config.model.start)
    if not start.exists():
        raise UserError(f"{start}: no such checkpoint file or folder{hint(start)}")
    if resume and not resume.exists():
        raise UserError(f"--resume {resume}: neither a checkpoint nor a folder of a run{hint(resume)}")


def unused(config: TrainConfig) -> list[str]:
    """Settings that differ from the usual and that others leave without effect, each with the reason."""
    usual, model, optimizer = TrainConfig(), config.model, config.optimizer
    found = []
    if optimizer.p2_gamma == 0 and optimizer.p2_k != usual.optimizer.p2_k:
        found.append("optimizer.p2_k, with optimizer.p2_gamma=0")
    for name in ("image_features", "text_features", "train_conditioner", "mixer_dropout"):
        if not model.vllm_features and getattr(model, name) != getattr(usual.model, name):
            found.append(f"model.{name}, with model.vllm_features=false")
    return found


def gpu_numbers(text: str) -> list[int]:
    """Reads `0,1,` as [0, 1].

    Raises:
        UserError: the text is not a list of GPU numbers.
    """
    words = [word.strip() for word in text.split(",") if word.strip()]
    fit = all(re.fullmatch("[0-9]{1,4}", word) for word in words) and len({*words}) == len(words)
    if not fit or (text.strip() and not words):
        raise UserError(f"--gpus {text!r}: expected different numbers such as 0,1")
    return [int(word) for word in words]


def check_splits(config: TrainConfig) -> None:
    """Says before anything is loaded that a split is not there.

    Raises:
        UserError: a data set has no annotations of train or of val.
    """
    for data in config.all_data():
        for split in SPLITS:
            if not (path := data.annotations(split)).exists():
                raise UserError(
                    f"{path}: no such file{hint(path)}; training reads a train and a val split of "
                    f"{data.dataset} (of a table of your own: python -m egogen.prepare folder --val-share; "
                    f"elsewhere: data.{split}_annotations=FILE)"
                )


def accumulate(config: TrainConfig, devices: int) -> int:
    """Batches to an optimiser step, so that the effective batch stays what the configuration says.

    Raises:
        UserError: it is no multiple of what one pass over the devices holds.
    """
    once, wanted = config.data.batch_size * devices, config.trainer.effective_batch
    if wanted % once:
        near = math.ceil(wanted / once) * once
        raise UserError(
            f"trainer.effective_batch: {wanted} is no multiple of data.batch_size x devices = {once}; "
            f"use {near} or another data.batch_size"
        )
    return wanted // once
