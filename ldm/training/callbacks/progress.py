"""The progress bar of a training run."""

from __future__ import annotations

import sys

import pytorch_lightning as lightning
from pytorch_lightning.callbacks import TQDMProgressBar

# Seconds between two looks at the loss, for which one waits for a GPU: on a terminal, and in a log file.
ON_TERMINAL, IN_FILE = 1.0, 10.0


class TrainingBar(TQDMProgressBar):
    """One bar over the optimiser steps of a whole run, also where it is resumed."""

    def on_train_start(self, trainer: lightning.Trainer, *args: lightning.LightningModule) -> None:
        """Begins at the step that the run begins at."""
        super().on_train_start(trainer, *args)
        bar = self.train_progress_bar
        bar.total, bar.unit = trainer.max_steps, "step"
        bar.mininterval = ON_TERMINAL if sys.stdout.isatty() else IN_FILE
        bar.initial = bar.n = bar.last_print_n = trainer.global_step
        bar.set_description("train")

    def on_train_epoch_start(self, *args: object) -> None:
        """Nothing: to Lightning the whole run is one epoch, which a resumed run does not start again."""

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *_: object
    ) -> None:
        """Moves on when a step is done; the loss is shown the next time, to write one line and not two."""
        if self.train_progress_bar.update(trainer.global_step - self.train_progress_bar.n):
            self.train_progress_bar.set_postfix(self.get_metrics(trainer, pl_module), refresh=False)

    def get_metrics(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """What stands behind the bar; without the version of the log folder, which is always the same."""
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return metrics
