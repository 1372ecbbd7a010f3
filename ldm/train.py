"""Trains the diffusion model: arguments and YAML in, `logs/<config>_<name>/` out. `main.py` calls it."""

from __future__ import annotations

import argparse
import logging
import math
import os
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytorch_lightning as lightning
import torch
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from omegaconf import OmegaConf
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.strategies import DDPStrategy

from egogen.cli import parser
from egogen.disk import writing
from egogen.errors import UserError
from egogen.locks import hold
from ldm.checkpoints.safe_reading import read
from ldm.checkpoints.source import load_parts
from ldm.config.sections import TrainConfig, load_config, split_words
from ldm.data.loaders import PairsModule
from ldm.data.pairs import EgoGenPairs
from ldm.module import LatentDiffusion
from ldm.training.callbacks.checkpoints import (
    EXIT_TERMINATED,
    LAST,
    AtomicFiles,
    Checkpoints,
    ResumingTrainer,
    find_resume,
)
from ldm.training.callbacks.grids import ImageGrids
from ldm.training.callbacks.progress import TrainingBar
from ldm.training.callbacks.speed import Speed

log = logging.getLogger(__name__)


def arguments() -> argparse.ArgumentParser:
    """The reference's flags."""
    made = parser("python main.py", __doc__)
    made.add_argument("-n", "--name", default="", help="name of the run; a run of the same name is resumed")
    made.add_argument(
        "-b", "--base", nargs="+", default=[], metavar="YAML",
        help="configuration files, merged left to right; then key.sub=value words",
    )  # fmt: skip
    made.add_argument(
        "-t", "--train", action="store_true", help="train (without it: check settings and data)"
    )
    made.add_argument(
        "--gpus", default="", metavar="0,1,...", help="GPUs to use, of each node; none is the CPU"
    )
    made.add_argument(
        "-r", "--resume", type=Path, default=None, help="checkpoint, or folder of a run, to resume"
    )
    made.add_argument(
        "-s", "--seed", type=int, default=None, help="seed; by default trainer.seed of the YAML"
    )
    made.add_argument("-l", "--logdir", type=Path, default=Path("logs"), help="folder of all runs")
    made.add_argument("-p", "--project", default="", help="folder inside --logdir that groups runs")
    made.add_argument("-f", "--postfix", default="", help="added to the run's folder name")
    made.add_argument("--scale_lr", action="store_true", help="multiply the rate by the effective batch")
    made.add_argument(
        "--no-test", action="store_true", help="accepted as the reference does; there is no test phase"
    )
    made.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="settings, after all files"
    )
    return made


def main(argv: Sequence[str] | None = None) -> None:
    """Parses, builds, trains."""
    args = arguments().parse_args(argv)
    files, words = split_words(args.base)
    words += args.overrides
    if args.seed is not None:
        words.append(f"trainer.seed={args.seed}")
    if not files:
        raise UserError("--base: give at least one YAML file, such as configs/train_ego4d.yaml")
    config = load_config(TrainConfig, files, words)
    if not config.model.start:
        raise UserError(
            f"{files[-1]}: model.start names no checkpoint; set it to the file training starts from"
        )
    gpus = parse_gpus(args.gpus)
    if args.scale_lr:
        config.optimizer.lr *= config.trainer.effective_batch
    name = "_".join(part for part in (files[0].stem, args.name, args.postfix) if part)
    run = args.logdir / args.project / name
    requeued = bool(int(os.environ.get("SLURM_RESTART_COUNT", "0")))  # the one before is about to end
    ranks = ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID")
    first = all(os.environ.get(name, "0") == "0" for name in ranks)
    with hold(run, "training", wait=requeued) if first and args.train else nullcontext(), writing(run):
        train(config, run, gpus, args.resume, args.train)


def train(
    config: TrainConfig, run: Path, gpus: list[int], resume: Path | None = None, fit: bool = True
) -> None:
    """Loads the start checkpoint, freezes what is frozen, trains, and leaves `checkpoints/last.ckpt`.

    Args:
        config: the run's settings.
        run: the run's folder; a run that is there is resumed.
        gpus: their numbers; none is the CPU.
        resume: another checkpoint, or another run's folder, to go on from.
        fit: False only checks that settings, checkpoint and data belong together.
    """
    settings = config.trainer
    per_node = len(gpus) or settings.processes
    accumulation = accumulate(config, per_node * settings.nodes)
    prepare_torch(config)
    checkpoint = find_checkpoint(run, resume)
    log.info("load %s", config.model.start)
    parts = load_parts(
        Path(config.model.start), config.model.architecture, use_ema=False,
        conditioner=config.model.vllm_features, new_conditioner=True, streams=config.model.streams,
    )  # fmt: skip
    module = LatentDiffusion(parts, config)
    device = f"cuda:{gpus[0]}" if gpus else "cpu"
    data = PairsModule(config, parts, module.tokenizer, device)
    settings.max_steps = data.total_steps
    describe(module, data, accumulation, per_node)
    if not fit:
        data.prepare_data()
        log.info("settings, checkpoint and data are good; add --train to train")
        return
    files = AtomicFiles()
    trainer = make_trainer(config, run, gpus, accumulation, data, files)
    if trainer.is_global_zero:
        save_config(config, run)
    if checkpoint:
        log.info("resume %s", checkpoint)
        step = reached(checkpoint)
        if step >= settings.max_steps and not trainer.owes(checkpoint, step):
            log.info("it has all %d steps already; nothing to do", settings.max_steps)
            return
    try:
        trainer.fit(module, data, ckpt_path=checkpoint, weights_only=True)
    except SystemExit as error:
        # Lightning ends the process with code 1 on Ctrl-C.
        if trainer.interrupted and error.code not in (EXIT_TERMINATED, 0):
            raise KeyboardInterrupt from None
        raise
    if files.problem:
        raise UserError(f"training ended at step {trainer.global_step}, but {files.problem}")
    last = run / "checkpoints" / LAST
    log.info("trained for %d steps; the checkpoint is %s", trainer.global_step, last)


def prepare_torch(config: TrainConfig) -> None:
    """Threads, seed of what has no key of its own (new weights), precision of 32-bit products."""
    settings = config.trainer
    if settings.threads:
        torch.set_num_threads(settings.threads)
    torch.set_float32_matmul_precision("high" if settings.tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = settings.tf32
    # The frozen networks are in evaluation mode on purpose; the other is Lightning's own business.
    warnings.filterwarnings("ignore", message=".*module.s. in eval mode.*")
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    # Our order of items knows where to go on.
    warnings.filterwarnings("ignore", message=".*dataloader is not resumable.*")
    # An advertisement for a service that needs a login.
    messages = logging.getLogger("pytorch_lightning.utilities.rank_zero")
    messages.addFilter(lambda record: "litlogger" not in record.getMessage())
    lightning.seed_everything(settings.seed, workers=True, verbose=False)


def describe(module: LatentDiffusion, data: PairsModule, accumulation: int, per_node: int) -> None:
    """Says what is trained on what."""
    config = module.config
    count = sum(value.numel() for value in module.trained().values())
    frozen = sum(value.numel() for value in module.parameters()) - count
    pairs = sum(len(files.items) for files in data.files["train"])
    log.info("train %s parameters, frozen %s; %d pairs", f"{count:,}", f"{frozen:,}", pairs)
    log.info(
        "effective batch %d = %d a process x %d processes x accumulation %d; %d steps, %d an epoch",
        config.trainer.effective_batch, config.data.batch_size, per_node * config.trainer.nodes,
        accumulation, data.total_steps, data.steps_per_epoch,
    )  # fmt: skip


def make_trainer(
    config: TrainConfig,
    run: Path,
    gpus: list[int],
    accumulation: int,
    data: PairsModule,
    files: AtomicFiles,
) -> ResumingTrainer:
    """Lightning's trainer, with TensorBoard, checkpoints and grids.

    It sees the whole run as one pass over `StepOrder`, which knows the epochs.
    """
    settings = config.trainer
    pictures = ImageGrids(
        EgoGenPairs(data.files["val"][:1]),
        config.sampling,
        run / "images",
        settings.images_every_steps,
        settings.images,
    )
    saver = Checkpoints(
        run / "checkpoints", files, settings.save_every_steps, settings.keep_last, settings.keep_every_steps
    )
    speed = Speed(settings.effective_batch, data.steps_per_epoch, settings.log_every_steps)
    every = settings.validate_every_epochs * data.steps_per_epoch
    devices = len(gpus) or settings.processes
    plugins: list[Any] = [files]
    if SLURMEnvironment.detect():
        plugins.append(SLURMEnvironment(auto_requeue=False))  # our own handlers save
    return ResumingTrainer(
        accelerator="gpu" if gpus else "cpu",
        devices=gpus or settings.processes,
        num_nodes=settings.nodes,
        strategy=DDPStrategy(gradient_as_bucket_view=True) if devices * settings.nodes > 1 else "auto",
        precision=choose_precision(settings.precision, bool(gpus)),  # type: ignore[arg-type]
        max_steps=settings.max_steps,
        accumulate_grad_batches=accumulation,
        check_val_every_n_epoch=None,
        val_check_interval=min(every, settings.max_steps) * accumulation,
        num_sanity_val_steps=0,
        log_every_n_steps=settings.log_every_steps,
        logger=TensorBoardLogger(run, name="", version="tensorboard"),
        callbacks=[TrainingBar(), speed, pictures, saver],
        plugins=plugins,
        use_distributed_sampler=False,
        enable_model_summary=False,
        default_root_dir=run,
    )


def choose_precision(wanted: str, on_gpu: bool) -> str:
    """What `auto` means: bf16-mixed on a GPU that has it, else 32-true."""
    if wanted != "auto":
        return wanted
    return "bf16-mixed" if on_gpu and torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"


def parse_gpus(text: str) -> list[int]:
    """Reads `0,1,` as [0, 1].

    Raises:
        UserError: the text is not a list of GPU numbers, or this machine has none.
    """
    words = [word for word in text.split(",") if word.strip()]
    if not all(word.strip().isdecimal() for word in words):
        raise UserError(f"--gpus {text!r}: expected numbers such as 0,1")
    if words and not torch.cuda.is_available():
        raise UserError(f"--gpus {text!r}: torch finds no GPU here; leave the flag out to use the CPU")
    return [int(word) for word in words]


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


def find_checkpoint(run: Path, resume: Path | None) -> Path | None:
    """The checkpoint to go on from: `--resume`, or the newest whole one of a run of the same name.

    A run that began elsewhere by `--resume`, or that Slurm starts again, goes on from its own.

    Raises:
        UserError: `--resume` names nothing that can be resumed.
    """
    own = find_resume(run / "checkpoints")
    if resume is None:
        return own
    found = find_resume(resume / "checkpoints") if resume.is_dir() else resume if resume.is_file() else None
    if not found:
        raise UserError(f"--resume {resume}: neither a checkpoint nor a folder with checkpoints/{LAST}")
    elsewhere = not found.resolve().is_relative_to(run.resolve())
    if own and (elsewhere or int(os.environ.get("SLURM_RESTART_COUNT", "0"))):
        log.info("--resume %s is where this run began; it goes on from its own checkpoint", resume)
        return own
    return found


def reached(path: Path) -> int:
    """Optimiser steps behind a checkpoint of a run.

    Raises:
        UserError: the file is none, but weights alone.
    """
    content = read(path)
    if "global_step" not in content or "loops" not in content:
        raise UserError(
            f"{path}: holds weights without the state of a run; start from it by model.start={path}"
        )
    return int(content["global_step"])


def save_config(config: TrainConfig, run: Path) -> None:
    """Writes the merged settings beside the results."""
    folder = run / "configs"
    folder.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(OmegaConf.structured(config), folder / "merged.yaml")
