"""A training run: load the start checkpoint, freeze, data, trainer, fit. `ldm.train` is its door."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import pytorch_lightning as lightning
import torch
from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from omegaconf import OmegaConf
from pytorch_lightning.strategies import DDPStrategy

from egogen.errors import UserError
from egogen.files import atomic_open
from egogen.peers import together
from ldm.checkpoints.lora_run import export
from ldm.checkpoints.source import load_parts, open_source, with_sizes
from ldm.config.lora import FIRST
from ldm.config.sections import TrainConfig, TrainerConfig
from ldm.data.loaders import PairsModule
from ldm.data.pairs import EgoGenPairs
from ldm.lora_module import LoraDiffusion
from ldm.module import LatentDiffusion
from ldm.networks.architecture import Parts
from ldm.networks.shapes import LATENT_CHANNELS
from ldm.networks.text import make_tokenizer
from ldm.training.callbacks.checkpoints import (
    EXIT_TERMINATED,
    LAST,
    AtomicFiles,
    Checkpoints,
    ResumingTrainer,
)
from ldm.training.callbacks.grids import ImageGrids
from ldm.training.callbacks.speed import Speed
from ldm.training.callbacks.training_bar import TrainingBar
from ldm.training.early_checks import accumulate, check_splits, gpu_numbers, unused
from ldm.training.launch import choose_environment
from ldm.training.resuming import find_checkpoint, read_begun
from ldm.training.trackers import make_tracker

log = logging.getLogger(__name__)
LORA = "lora"  # in the run's folder: what other programs read of a training of adapters


class Recipe(NamedTuple):
    """What a run begins from and what learns.

    `load`: the settings with the sizes of the networks, and the networks that `model.start` names. `build`:
    the module, from both.
    """

    load: Callable[[TrainConfig], tuple[TrainConfig, Parts]]
    build: Callable[[Parts, TrainConfig], LatentDiffusion]


def train(
    config: TrainConfig,
    run: Path,
    gpus: list[int],
    resume: Path | None = None,
    fit: bool = True,
    recipe: Recipe | None = None,
) -> None:
    """Loads the start checkpoint, freezes what is frozen, trains, and leaves `checkpoints/last.ckpt`.

    Args:
        config: the run's settings.
        run: the run's folder; a run that is there is resumed.
        gpus: their numbers; none is the CPU.
        resume: another checkpoint, or another run's folder, to go on from.
        fit: False only checks that settings, checkpoint and data belong together.
        recipe: what is loaded and trained; by default stage 2 itself.
    """
    per_node = len(gpus) or config.trainer.processes
    environment = choose_environment(per_node, config.trainer.nodes)
    accumulation = accumulate(config, per_node * config.trainer.nodes)
    prepare_torch(config.trainer)
    checkpoint = find_checkpoint(run, resume)
    check_splits(config)
    recipe = recipe or Recipe(load, LoraDiffusion if config.model.lora else LatentDiffusion)
    config, parts = recipe.load(config)
    data = PairsModule(config, parts, make_tokenizer(), f"cuda:{gpus[0]}" if gpus else "cpu")
    config = replace(config, trainer=replace(config.trainer, max_steps=data.total_steps))
    module = recipe.build(parts, config)
    describe(module, data, accumulation, per_node)
    begun = read_begun(checkpoint) if checkpoint else None
    changes = begun.changes(config) if begun else []
    if begun:
        log.info("resume %s", begun.path)
    if not fit:
        data.prepare_data()
        log.info("settings, checkpoint and data are good; add --train to train")
        return
    trainer = make_trainer(config, run, gpus, accumulation, data, environment)
    if begun and begun.step >= data.total_steps and not trainer.owes(begun.path, begun.step):
        log.info("it has all %d steps already; nothing to do", data.total_steps)
        return
    if begun and changes:
        log.info("changed, and in force from step %d on: %s", begun.step, "; ".join(changes))
    if trainer.is_global_zero:
        save_config(config, run)
    run_trainer(trainer, module, data, checkpoint)
    last = run / "checkpoints" / LAST
    log.info("trained for %d steps; the checkpoint is %s", trainer.global_step, last)
    if config.model.lora and trainer.is_global_zero:
        export(last, run / LORA)


def load(config: TrainConfig) -> tuple[TrainConfig, Parts]:
    """Loads the start checkpoint; the settings take over the sizes of its networks, unless they give some.

    Raises:
        UserError: it was distilled, which this training would undo; see also `load_parts`.
    """
    log.info("load %s", config.model.start)
    source = open_source(Path(config.model.start))
    if source.distilled:
        raise UserError(
            f"{source.path}: a distilled checkpoint, which training would undo; go on by python -m "
            "ldm.distill, or set model.start to the checkpoint that was distilled"
        )
    targets = config.model.lora.targets if config.model.lora else [FIRST]
    if source.inputs == LATENT_CHANNELS and FIRST not in targets:
        raise UserError(
            f"model.lora.targets: got {', '.join(targets)}, expected {FIRST} among them: the UNet of "
            f"{source.path} takes no source frame, and would never see one"
        )
    model = with_sizes(config.model, source)
    parts = load_parts(
        source,
        model.shape,
        use_ema=False,
        conditioner=model.vllm_features,
        new_conditioner=True,
        streams=model.streams,
    )
    return replace(config, model=model), parts


def run_trainer(
    trainer: ResumingTrainer, module: LatentDiffusion, data: PairsModule, checkpoint: Path | None
) -> None:
    """Trains.

    Raises:
        UserError: the last checkpoint could not be written, or another process cannot be reached.
        KeyboardInterrupt: Ctrl-C.
    """
    try:
        with together("trainer.timeout_minutes"):
            trainer.fit(module, data, ckpt_path=checkpoint, weights_only=True)
    except SystemExit as error:
        # Lightning ends the process with code 1 on Ctrl-C.
        if trainer.interrupted and error.code not in (EXIT_TERMINATED, 0):
            raise KeyboardInterrupt from None
        raise
    saver = trainer.checkpoint_callback
    assert isinstance(saver, Checkpoints)
    if saver.files.problem:
        raise UserError(f"training ended at step {trainer.global_step}, but {saver.files.problem}")


def prepare_torch(settings: TrainerConfig) -> None:
    """Threads, seed of what has no key of its own (new weights), precision of 32-bit products."""
    if settings.threads:
        torch.set_num_threads(settings.threads)
    torch.set_float32_matmul_precision("high" if settings.tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = settings.tf32
    # The frozen networks are in evaluation mode on purpose; the other is Lightning's own business.
    warnings.filterwarnings("ignore", message=".*module.s. in eval mode.*")
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    # It says the whole command, with whatever key is in it.
    warnings.filterwarnings("ignore", message=".*`srun` command is available.*")
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
    log.info("train %s parameters, frozen %s; %d pairs", f"{count:,}", f"{frozen:,}", data.pairs)
    log.info(
        "effective batch %d = %d a process x %d processes x accumulation %d; %d steps, %d an epoch",
        config.trainer.effective_batch, config.data.batch_size, per_node * config.trainer.nodes,
        accumulation, data.total_steps, data.steps_per_epoch,
    )  # fmt: skip
    if config.optimizer.warmup_steps >= data.total_steps:
        log.warning(
            "optimizer.warmup_steps: %d, of %d steps in all; the rate never gets to optimizer.lr",
            config.optimizer.warmup_steps, data.total_steps,
        )  # fmt: skip
    for setting in unused(config):
        log.warning("%s: has no effect", setting)


def make_trainer(
    config: TrainConfig,
    run: Path,
    gpus: list[int],
    accumulation: int,
    data: PairsModule,
    environment: ClusterEnvironment,
) -> ResumingTrainer:
    """Lightning's trainer, with what keeps the curves, checkpoints and grids.

    It sees the whole run as one pass over `StepOrder`, which knows the epochs.
    """
    settings, files = config.trainer, AtomicFiles()
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
    return ResumingTrainer(
        accelerator="gpu" if gpus else "cpu",
        devices=gpus or settings.processes,
        num_nodes=settings.nodes,
        strategy=choose_strategy(settings, devices * settings.nodes),
        precision=choose_precision(settings.precision, bool(gpus)),  # type: ignore[arg-type]
        max_steps=data.total_steps,
        accumulate_grad_batches=accumulation,
        check_val_every_n_epoch=None,
        val_check_interval=min(every, data.total_steps) * accumulation,
        num_sanity_val_steps=0,
        log_every_n_steps=settings.log_every_steps,
        logger=make_tracker(settings.tracker, run),
        callbacks=[TrainingBar(), speed, pictures, saver],
        plugins=[files, environment],
        use_distributed_sampler=False,
        enable_model_summary=False,
        default_root_dir=run,
    )


def choose_strategy(settings: TrainerConfig, processes: int) -> DDPStrategy | str:
    """How several processes train as one, and how long they wait for each other."""
    patience = timedelta(minutes=settings.timeout_minutes)
    return DDPStrategy(gradient_as_bucket_view=True, timeout=patience) if processes > 1 else "auto"


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
    numbers, found = gpu_numbers(text), torch.cuda.device_count()
    if numbers and not found:
        raise UserError(f"--gpus {text!r}: torch finds no GPU here; leave the flag out to use the CPU")
    if any(number >= found for number in numbers):
        raise UserError(f"--gpus {text!r}: torch finds {found} GPUs here, numbered from 0")
    return numbers


def save_config(config: TrainConfig, run: Path) -> None:
    """Writes the merged settings beside the results."""
    with atomic_open(run / "configs" / "merged.yaml") as file:
        file.write(OmegaConf.to_yaml(asdict(config)).encode())
