"""The progress bar of a training run."""

from __future__ import annotations

import pytorch_lightning as lightning
from pytorch_lightning.callbacks import TQDMProgressBar

from egogen.progress import Progress

PAUSE = 1.0  # seconds between two looks at the loss on a terminal: one waits for a GPU


class TrainingBar(TQDMProgressBar):
    """One bar over the optimiser steps of a whole run, also where it is resumed."""

    def init_train_tqdm(self) -> Progress:  # type: ignore[override]  # another tqdm
        """Ours, as all bars are."""
        return Progress(desc="train", unit="step", disable=self.is_disabled, smoothing=0)

    def init_validation_tqdm(self) -> Progress:  # type: ignore[override]
        """Below the other, and gone when it is full."""
        return Progress(desc=self.validation_description, position=1, disable=self.is_disabled, leave=False)

    def on_train_start(self, trainer: lightning.Trainer, *args: lightning.LightningModule) -> None:
        """Begins at the step that the run begins at."""
        super().on_train_start(trainer, *args)
        bar = self.train_progress_bar
        if bar.disable:
            return
        bar.total, bar.mininterval = trainer.max_steps, max(PAUSE, bar.mininterval)
        bar.initial = bar.n = bar.last_print_n = trainer.global_step

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
