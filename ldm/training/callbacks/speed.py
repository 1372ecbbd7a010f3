"""How fast training is, and how much of the time it waits for data."""

from __future__ import annotations

import time

import pytorch_lightning as lightning


class Speed(lightning.Callback):
    """Logs pairs a second over all processes, the share of time spent waiting for batches, and the epoch."""

    def __init__(self, effective_batch: int, steps_per_epoch: int, every: int) -> None:
        self.effective_batch, self.steps_per_epoch, self.every = effective_batch, steps_per_epoch, every
        self.began = self.validated_from = time.perf_counter()
        self.waited = 0.0
        self.step = 0

    def on_train_start(self, trainer: lightning.Trainer, *_: object) -> None:
        """Starts the clock."""
        self.step = trainer.global_step
        self.began = time.perf_counter()

    def on_validation_start(self, *_: object) -> None:
        """Stops the clock."""
        self.validated_from = time.perf_counter()

    def on_validation_end(self, *_: object) -> None:
        """Lets it go on."""
        self.began += time.perf_counter() - self.validated_from

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *_: object
    ) -> None:
        """Logs every few steps."""
        now = time.perf_counter()
        done = trainer.global_step - self.step
        if done >= self.every:
            passed = now - self.began
            waited = getattr(trainer.train_dataloader, "waited", 0.0)
            pl_module.log_dict(
                {
                    "speed/pairs_per_second": done * self.effective_batch / passed,
                    "speed/data_wait_share": (waited - self.waited) / passed,
                    "epoch_done": trainer.global_step / self.steps_per_epoch,
                }
            )
            self.began, self.step, self.waited = now, trainer.global_step, waited
