"""Where a run goes on, and which of its settings may differ from those it was begun with."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from egogen.errors import UserError, shorten
from ldm.checkpoints.safe_reading import SETTINGS, read
from ldm.config.sections import TrainConfig
from ldm.training.callbacks.checkpoints import LAST, find_resume
from ldm.training.launch import is_requeued

log = logging.getLogger(__name__)

LORA_KEY = "model.lora"
DISTILL = "distill"  # the section that runs of `ldm.distill` alone have
# What a resumed run does with a setting that has changed (docs/stage2.md has the same table).
# Speed, hardware, rhythm, pictures: the new one counts; what is learnt changes by rounding alone.
USED = [
    "model.gradient_checkpointing", "model.channels_last", "model.compile", "model.ema_on_cpu",
    "data.batch_size", "data.workers", "data.pin_memory", "data.persistent_workers", "data.cache_latents",
    "data.check", "optimizer.fused", "trainer.nodes", "trainer.processes", "trainer.save_every_steps",
    "trainer.keep_last", "trainer.keep_every_steps", "trainer.validate_every_epochs",
    "trainer.images_every_steps", "trainer.images", "trainer.log_every_steps", "trainer.tracker",
    "trainer.max_nonfinite", "trainer.threads", "trainer.timeout_minutes", "sampling.scheduler",
    "sampling.steps", "sampling.scales_txt", "sampling.scales_img", "sampling.interval_txt",
    "sampling.interval_img", "sampling.timesteps", "sampling.adapt", "sampling.seed", "sampling.height",
    "sampling.output_range", "sampling.format", "sampling.batch_size", "sampling.precision",
    "sampling.compile", "sampling.loras",
]  # fmt: skip
# The new one counts from the resumed step on, and a line of the log says so.
SAID = [
    "model.start", "model.mixer_dropout", "model.drop_each", "model.ema_decay", "model.ema_every",
    "data.dataset", "data.root", "data.train_annotations", "data.val_annotations", "data.features",
    "data.frame_tars", "data.webdataset", "data.text_key", "data.resolution", "data.flip", "features.store",
    "joint", "optimizer.lr", "optimizer.betas", "optimizer.eps", "optimizer.weight_decay",
    "optimizer.warmup_steps", "optimizer.schedule", "optimizer.p2_gamma", "optimizer.p2_k",
    "trainer.effective_batch", "trainer.max_epochs", "trainer.max_steps", "trainer.validate_items",
    "trainer.precision", "trainer.tf32", "trainer.seed", "distill.student", "distill.text_scales",
    "distill.image_scales", "distill.scale_layer_rate", "distill.grid", "distill.huber",
]  # fmt: skip
# The checkpoint's tensors would not fit, or not be what they are told to be: an error.
REFUSED = [
    "model.architecture", "model.vllm_features", "model.image_features", "model.text_features",
    "model.train_conditioner", "model.lora", "optimizer.eight_bit", "distill.method", "distill.phases",
]  # fmt: skip


class Begun(NamedTuple):
    """What a checkpoint tells of the run that wrote it: its step, and its settings by section."""

    path: Path
    step: int
    settings: Mapping[str, Any]

    def changes(self, config: TrainConfig) -> list[str]:
        """The settings that count from here on and are new, as `key: old -> new`.

        Raises:
            UserError: one may not change; names the first. Or it is a run of another command.
        """
        now, found = asdict(config), []
        if self.settings and (DISTILL in self.settings) != (DISTILL in now):
            command = "python -m ldm.distill" if DISTILL in self.settings else "main.py"
            raise UserError(f"{self.path}: is of a run of {command}, which alone can go on with it")
        for key in (*REFUSED, *SAID):
            section, _, name = key.partition(".")
            if section not in now:
                continue  # of distillation alone
            before = self.settings.get(section, {})
            before, after = (before, now[section]) if not name else (before.get(name), now[section][name])
            unsaid = before in (None, {}) and key != LORA_KEY  # without adapters, a file says nothing of them
            if unsaid or plain(before) == plain(after) or not self.settings:
                continue
            if key in REFUSED:
                raise UserError(
                    f"{key}: got {shorten(after)}, the run to resume has {shorten(before)}, which cannot "
                    "change; set it back, or start another run (--name) from its weights by "
                    f"{'distill.student' if section == DISTILL else 'model.start'}={self.path}"
                )
            found.append(f"{key}: {shorten(before)} -> {shorten(after)}")
        return found


def plain(value: object) -> object:
    """A value as a file gives it back: lists for tuples."""
    return list(value) if isinstance(value, tuple) else value


def read_begun(path: Path) -> Begun:
    """What a checkpoint tells of its run.

    Raises:
        UserError: the file is none of a run, but weights alone.
    """
    content = read(path)
    if "global_step" not in content or "loops" not in content:
        raise UserError(
            f"{path}: holds weights without the state of a run; start from it by model.start={path}"
        )
    return Begun(path, int(content["global_step"]), content.get(SETTINGS) or optimizer_settings(content))


def optimizer_settings(content: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What a file without settings tells of them: those of its optimiser."""
    groups = [group for state in content.get("optimizer_states", []) for group in state["param_groups"]]
    if not groups:
        return {}
    named = {name: groups[0].get(name) for name in ("betas", "eps", "weight_decay")}
    return {"optimizer": {"lr": groups[0].get("initial_lr", groups[0].get("lr")), **named}}


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
    if own and (elsewhere or is_requeued()):
        log.info("--resume %s is where this run began; it goes on from its own checkpoint", resume)
        return own
    return found
