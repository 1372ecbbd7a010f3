"""Trains the diffusion model: arguments and YAML in, `logs/<config>_<name>/` out. `main.py` calls it."""

from __future__ import annotations

import argparse
import logging
import math
import warnings
from collections.abc import Sequence
from pathlib import Path

import pytorch_lightning as lightning
import torch
from omegaconf import OmegaConf
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import TensorBoardLogger

from egogen.cli import parser
from egogen.errors import UserError
from ldm.callbacks import ImageGrids
from ldm.checkpoint import load_parts, read
from ldm.config import TrainConfig, load_config
from ldm.loaders import PairsModule
from ldm.module import LatentDiffusion

log = logging.getLogger(__name__)


def arguments() -> argparse.ArgumentParser:
    """The reference's flags."""
    made = parser("python main.py", __doc__)
    made.add_argument("-n", "--name", default="", help="name of the run; a run of the same name is resumed")
    made.add_argument(
        "-b", "--base", nargs="+", type=Path, default=[], metavar="YAML",
        help="configuration files, merged left to right; then key.sub=value words",
    )  # fmt: skip
    made.add_argument(
        "-t", "--train", action="store_true", help="train (without it: check settings and data)"
    )
    made.add_argument("--gpus", default="", metavar="0,1,...", help="GPUs to use; none is the CPU")
    made.add_argument(
        "-r", "--resume", type=Path, default=None, help="checkpoint, or folder of a run, to resume"
    )
    made.add_argument(
        "-s", "--seed", type=int, default=None, help="seed; by default trainer.seed of the YAML"
    )
    made.add_argument("-l", "--logdir", type=Path, default=Path("logs"), help="folder of all runs")
    made.add_argument("-f", "--postfix", default="", help="added to the run's folder name")
    made.add_argument("--scale_lr", action="store_true", help="multiply the rate by the effective batch")
    made.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="settings, after all files"
    )
    return made


def main(argv: Sequence[str] | None = None) -> None:
    """Parses, builds, trains."""
    args = arguments().parse_args(argv)
    files = [path for path in args.base if "=" not in path.name]
    words = [str(path) for path in args.base if "=" in path.name] + args.overrides
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
    accumulation = accumulate(config, max(1, len(gpus)))
    if args.scale_lr:
        config.optimizer.lr *= config.trainer.effective_batch
    run = args.logdir / "_".join(part for part in (files[-1].stem, args.name, args.postfix) if part)
    train(config, run, gpus, accumulation, find_checkpoint(run, args.resume), args.train)


def train(
    config: TrainConfig, run: Path, gpus: list[int], accumulation: int, resume: Path | None, fit: bool = True
) -> None:
    """Loads the start checkpoint, freezes what is frozen, trains, and leaves `checkpoints/last.ckpt`.

    Args:
        config: the run's settings.
        run: the run's folder.
        gpus: their numbers; none is the CPU.
        accumulation: batches to an optimiser step.
        resume: checkpoint to go on from.
        fit: False only checks that settings, checkpoint and data belong together.
    """
    if config.trainer.threads:
        torch.set_num_threads(config.trainer.threads)
    # The frozen networks are in evaluation mode on purpose; the other is Lightning's own business.
    warnings.filterwarnings("ignore", message=".*module.s. in eval mode.*")
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    lightning.seed_everything(config.trainer.seed, workers=True, verbose=False)
    log.info("load %s", config.model.start)
    parts = load_parts(
        Path(config.model.start), config.model.architecture, use_ema=False,
        conditioner=config.model.vllm_features, new_conditioner=True,
    )  # fmt: skip
    module = LatentDiffusion(parts, config)
    data = PairsModule(config, parts, module.tokenizer)
    count = sum(value.numel() for value in module.trained().values())
    frozen = sum(value.numel() for value in module.parameters()) - 2 * count  # the average is a copy
    log.info(
        "train %s parameters, frozen %s; %d pairs", f"{count:,}", f"{frozen:,}", len(data.pairs["train"])
    )
    log.info("batch %d x %d x accumulation %d", config.data.batch_size, max(1, len(gpus)), accumulation)
    if not fit:
        data.prepare_data()
        log.info("settings, checkpoint and data are good; add --train to train")
        return
    trainer = make_trainer(config, run, gpus, accumulation, data)
    save_config(config, run)
    last = run / "checkpoints" / "last.ckpt"
    if resume:
        log.info("resume %s", resume)
    try:
        trainer.fit(module, data, ckpt_path=resume, weights_only=True)
    except SystemExit:
        # Lightning ends the process with code 1 on Ctrl-C.
        if trainer.interrupted:
            raise KeyboardInterrupt from None
        raise
    if not last.exists() or read(last)["global_step"] != trainer.global_step:
        trainer.save_checkpoint(last)
    log.info("trained for %d steps; the checkpoint is %s", trainer.global_step, last)


def make_trainer(
    config: TrainConfig, run: Path, gpus: list[int], accumulation: int, data: PairsModule
) -> lightning.Trainer:
    """Lightning's trainer, with TensorBoard, checkpoints and grids."""
    settings = config.trainer
    pictures = ImageGrids(
        data.pairs["val"], config.sampling, run / "images", settings.images_every_steps, settings.images
    )
    saver = ModelCheckpoint(
        run / "checkpoints",
        filename="{step:07d}",
        every_n_train_steps=settings.save_every_steps,
        save_top_k=-1,
        save_last=True,
        enable_version_counter=False,
    )
    return lightning.Trainer(
        accelerator="gpu" if gpus else "cpu",
        devices=gpus or 1,
        precision=settings.precision,  # type: ignore[arg-type]
        max_epochs=settings.max_epochs,
        max_steps=settings.max_steps,
        accumulate_grad_batches=accumulation,
        check_val_every_n_epoch=settings.validate_every_epochs,
        num_sanity_val_steps=0,
        log_every_n_steps=settings.log_every_steps,
        logger=TensorBoardLogger(run, name="", version="tensorboard"),
        callbacks=[pictures, saver],
        use_distributed_sampler=False,
        enable_model_summary=False,
        default_root_dir=run,
    )


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
    """The checkpoint to go on from: `--resume`, or `last.ckpt` of a run of the same name.

    Raises:
        UserError: `--resume` names nothing that can be resumed.
    """
    folder = run if resume is None or not resume.is_dir() else resume
    last = folder / "checkpoints" / "last.ckpt"
    if resume is None:
        return last if last.exists() else None
    found = resume if resume.is_file() else last
    if not found.exists():
        raise UserError(f"--resume {resume}: neither a checkpoint nor a folder with checkpoints/last.ckpt")
    return found


def save_config(config: TrainConfig, run: Path) -> None:
    """Writes the merged settings beside the results."""
    folder = run / "configs"
    folder.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(OmegaConf.structured(config), folder / "merged.yaml")
