"""Checkpoints of a training run: when they are written, which of them stay, and where a run goes on."""

from __future__ import annotations

import logging
import os
import re
import shutil
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import pytorch_lightning as lightning
import torch
from lightning_fabric.plugins import CheckpointIO
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.utilities import rank_zero_info

from egogen.disk import no_room, writing
from egogen.errors import UserError, reason
from egogen.files import atomic_open, read_json, write_json
from egogen.unfinished import PARTS
from ldm.checkpoints.safe_reading import read

log = logging.getLogger(__name__)
LAST, BEST = "last.ckpt", "best.ckpt"
VALIDATED = "validated.json"  # in the run's folder: the steps whose validation is done
STEP = re.compile(r"step=(\d+)\.ckpt")
MONITORED = "val/loss_simple_ema"
EXIT_TERMINATED = 128 + signal.SIGTERM


class AtomicFiles(CheckpointIO):
    """Writes checkpoints by atomic rename and reads them without executing anything.

    A file that cannot be written does not end training: `problem` says why, and what was there stays.
    """

    def __init__(self) -> None:
        self.problem = ""

    def save_checkpoint(
        self,
        checkpoint: dict[str, Any],
        path: str | Path,
        storage_options: object = None,  # noqa: ARG002 - Lightning's signature
    ) -> None:
        """Writes a whole file or none."""
        path = Path(path)
        self.problem = ""
        try:
            with atomic_open(path) as file, writing(path, tensor_bytes(checkpoint)):
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
        except (OSError, UserError) as error:
            self.note(path, error)

    def note(self, path: Path, error: OSError | UserError) -> None:
        """Remembers that a file could not be written."""
        told = error if isinstance(error, UserError) else no_room(path, error)
        self.problem = f"{told or f'{path}: not written ({reason(error)})'}"

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: object = None,  # noqa: ARG002 - Lightning's signature
        weights_only: bool | None = None,  # noqa: ARG002
    ) -> dict[str, Any]:
        """Reads a file; see `ldm.checkpoints.safe_reading.read`."""
        return read(Path(path))

    def remove_checkpoint(self, path: str | Path) -> None:
        """Deletes a file if it is there."""
        Path(path).unlink(missing_ok=True)


def tensor_bytes(checkpoint: object) -> int:
    """Bytes of the tensors in a checkpoint; those that share memory count once, as in the file."""
    storages = [tensor.untyped_storage() for tensor in tensors_of(checkpoint)]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def tensors_of(value: object) -> Iterator[torch.Tensor]:
    """The tensors in mappings and lists in each other."""
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, torch.Tensor):
            yield each
        elif isinstance(each, Mapping):
            waiting += each.values()
        elif isinstance(each, list | tuple):
            waiting += each


class Checkpoints(Checkpoint):
    """Saves at the end of optimiser steps: every n-th, the best, the last, and on signals.

    `last.ckpt` is another name (a hard link) of the newest file. SIGUSR1 saves and goes on; SIGTERM saves and
    ends the process with code 143, so that a requeued Slurm job goes on where it was. If a file cannot be
    written (disk full), that is logged, what was there stays, and training goes on to the next one.
    `every`, `keep_last` and `keep_every` are optimiser steps, as in `TrainerConfig`.
    """

    def __init__(self, folder: Path, files: AtomicFiles, every: int, keep_last: int, keep_every: int) -> None:
        self.folder, self.files = folder, files
        self.every, self.keep_last, self.keep_every = every, keep_last, keep_every
        self.best = float("inf")
        self.asked: signal.Signals | None = None
        self.before: dict[signal.Signals, Any] = {}

    # --- signals -----------------------------------------------------------------------------------

    def begin(self, trainer: lightning.Trainer) -> None:
        """Listens to SIGUSR1 and SIGTERM, in the place of Lightning's own handlers; tidies the folder."""
        if trainer.is_global_zero and self.folder.is_dir():
            self.tidy(trainer.global_step)
        self.best = min(self.best, best_value(self.folder / BEST, self.state_key))  # alike on all processes
        self.before = {
            number: signal.signal(number, self.note) for number in (signal.SIGUSR1, signal.SIGTERM)
        }

    def tidy(self, step: int) -> None:
        """Removes what a killed process left; what is resumed is the last, later checkpoints go aside."""
        for path in self.folder.glob(PARTS):
            path.unlink()
        for found, path in step_files(self.folder).items():
            if found > step:
                path.rename(path.with_name(f"abandoned-{path.name}"))
        newest, last = step_files(self.folder).get(step), self.folder / LAST
        if newest is not None and not (last.exists() and last.samefile(newest)):
            link(newest, last)  # the process was killed between the two, or the last was damaged
        done = validated(self.folder)
        if done and max(done) > step:
            write_json(self.folder.parent / VALIDATED, [found for found in done if found <= step])

    def note(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - a handler's signature
        """Remembers a signal until the step is done. SIGTERM is stronger."""
        if self.asked != signal.SIGTERM:
            self.asked = signal.Signals(number)

    def teardown(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:  # noqa: ARG002
        """Gives the signals back."""
        for number, handler in self.before.items():
            signal.signal(number, handler)
        self.before = {}

    # --- when --------------------------------------------------------------------------------------

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,  # noqa: ARG002 - Lightning's signature
        outputs: object,  # noqa: ARG002
        batch: object,  # noqa: ARG002
        batch_idx: int,
    ) -> None:
        """Saves if this batch ended an optimiser step and it is time, or somebody asked for it."""
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        step, asked = trainer.global_step, self.agreed(trainer)
        if asked or step % self.every == 0 or step == trainer.max_steps:
            self.save(trainer, f"step={step:07d}.ckpt", is_last=True)
        if asked == signal.SIGTERM:
            rank_zero_info("SIGTERM: saved step %d; the same command goes on from there", step)
            # Lightning's launcher kills the first process when another ends with an error.
            raise SystemExit(EXIT_TERMINATED if trainer.local_rank == 0 else 0)
        if asked:
            rank_zero_info("%s: saved step %d", asked.name, step)

    def agreed(self, trainer: lightning.Trainer) -> signal.Signals | None:
        """The strongest signal that any process has got; all processes learn the same."""
        asked, self.asked = self.asked, None
        if trainer.world_size == 1:
            return asked
        strength = torch.tensor([0, 0], device=trainer.strategy.root_device)
        if asked:
            strength[int(asked == signal.SIGTERM)] = 1
        usr, term = trainer.strategy.reduce(strength, reduce_op="sum").tolist()
        return signal.SIGTERM if term else signal.SIGUSR1 if usr else None

    def on_validation_end(self, trainer: lightning.Trainer, *_: object) -> None:
        """Saves `best.ckpt` if the averaged weights have never been as good, then records the validation."""
        value = trainer.callback_metrics.get(MONITORED)
        if trainer.sanity_checking or value is None:
            return
        if float(value) < self.best:
            before, self.best = self.best, float(value)
            self.save(trainer, BEST, is_last=False)
            if trainer.strategy.broadcast(bool(self.files.problem)):
                self.best = before  # not written: the next as good may be
                return
        if trainer.is_global_zero:
            self.record(trainer)

    # --- how ---------------------------------------------------------------------------------------

    def save(self, trainer: lightning.Trainer, name: str, is_last: bool) -> None:
        """Writes one file, then lets go of those that need not stay."""
        path = self.folder / name
        trainer.save_checkpoint(path, weights_only=False)
        if is_last and trainer.is_global_zero and not self.files.problem:
            try:
                link(path, self.folder / LAST)
                self.prune()
            except OSError as error:
                self.files.note(self.folder / LAST, error)
        if self.files.problem:
            log.error("%s; training goes on, and the checkpoints before it stay", self.files.problem)
        trainer.strategy.barrier("checkpoint")  # nobody leaves before the last rename

    def record(self, trainer: lightning.Trainer) -> None:
        """Notes that the validation of this step is done, once its curves are on disk."""
        try:
            for logger in trainer.loggers:
                logger.save()
            done = {*validated(self.folder), trainer.global_step}
            write_json(self.folder.parent / VALIDATED, sorted(done), indent=None)
        except (OSError, UserError) as error:
            log.error("%s; a run resumed at step %d validates it again", error, trainer.global_step)

    def prune(self) -> None:
        """Deletes all but the last files and those that stay for good."""
        if not self.keep_last:
            return
        steps = step_files(self.folder)
        for step in sorted(steps)[: -self.keep_last]:
            if not (self.keep_every and step % self.keep_every == 0):
                steps[step].unlink(missing_ok=True)

    def state_dict(self) -> dict[str, Any]:
        """The best value so far."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Takes the best value over."""
        self.best = state_dict["best"]


class ResumingTrainer(lightning.Trainer):
    """Lightning's trainer; before it trains on, it makes up the validation that an ended process owes."""

    def owes(self, checkpoint: Path, step: int) -> bool:
        """Whether a validation was due at the step of a checkpoint and is not recorded as done."""
        due = step * self.accumulate_grad_batches % self.val_check_interval == 0
        return due and step not in validated(checkpoint.parent)

    def _run_stage(self) -> None:
        """Runs when all is restored, also where no step is left to train and Lightning calls no hook."""
        saver, resumed = self.checkpoint_callback, self.ckpt_path
        assert isinstance(saver, Checkpoints)
        owes = bool(resumed) and self.owes(Path(str(resumed)), self.global_step)
        owes = self.strategy.broadcast(owes)  # before the first process tidies up
        saver.begin(self)
        if owes:
            rank_zero_info("step %d was not validated; that is made up for now", self.global_step)
            validation = self.fit_loop.epoch_loop.val_loop
            validation.restarting = False
            self.validating = True
            validation.run()
            self.training = True
        if self.global_step < self.max_steps:
            super()._run_stage()


def validated(folder: Path) -> list[int]:
    """The steps whose validation is done, of a run by its folder of checkpoints."""
    path = folder.parent / VALIDATED
    try:
        found: object = read_json(path) if path.exists() else []
    except UserError as error:
        found = error
    if isinstance(found, list) and all(isinstance(step, int) for step in found):
        return found
    log.warning("%s: not a list of steps (%s); they count as not validated", path, found)
    return []


def link(path: Path, name: Path) -> None:
    """Makes `name` another name of `path`, atomically; a copy where the file system has no hard links."""
    part = name.with_name(f".{name.name}.part")
    part.unlink(missing_ok=True)
    try:
        os.link(path, part)
    except OSError:
        shutil.copyfile(path, part)
    part.replace(name)


def best_value(path: Path, state_key: str) -> float:
    """The value that made a `best.ckpt` the best; infinite if there is none, or a damaged one."""
    if not path.exists():
        return float("inf")
    try:
        return float(read(path).get("callbacks", {}).get(state_key, {}).get("best", "inf"))
    except UserError as error:
        log.warning("%s; another will take its place", error)
        return float("inf")


def step_files(folder: Path) -> dict[int, Path]:
    """Optimiser step -> its checkpoint."""
    matches = ((STEP.fullmatch(path.name), path) for path in folder.glob("*.ckpt"))
    return {int(match[1]): path for match, path in matches if match}


def find_resume(folder: Path) -> Path | None:
    """The newest whole checkpoint of a run: usually `last.ckpt`, the one before it if that is damaged.

    Returns:
        None if the run has no checkpoint at all.

    Raises:
        UserError: there are checkpoints, and all are damaged, or links to nothing.
    """
    last = folder / LAST
    named = [last, *step_files(folder).values()]
    candidates = [path for path in named if path.exists()]
    lost = [path for path in named if path.is_symlink() and not path.exists()]
    problems = [
        f"{path}: is a link to {path.readlink()}, which is not there"
        for path in lost
        if path == last or not candidates
    ]
    for path in sorted(candidates, key=lambda path: (path.stat().st_mtime_ns, path == last), reverse=True):
        try:
            read(path)
        except UserError as error:
            problems.append(str(error))
            continue
        for problem in problems:
            log.warning("%s", problem)
        if problems:
            log.warning("resume from the checkpoint before it: %s", path)
        return path
    if problems:
        raise UserError(f"{problems[0]}; no checkpoint of this run is whole. Delete {folder} to begin anew")
    return None
