"""The bars of a training run are those of all commands."""

from __future__ import annotations

import io
import logging

import pytest
import pytorch_lightning as lightning

from egogen.progress import Progress
from ldm.training.callbacks.training_bar import TrainingBar


def test_a_training_run_goes_on_in_lines(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    file = io.StringIO()
    monkeypatch.setattr("sys.stderr", file)
    step = [5]
    monkeypatch.setattr(lightning.Trainer, "global_step", property(lambda _: step[0]))
    trainer = lightning.Trainer(max_steps=8, accelerator="cpu", logger=False, enable_checkpointing=False)
    made, module = TrainingBar(), lightning.LightningModule()
    monkeypatch.setattr(TrainingBar, "get_metrics", lambda *_: {"train/loss": 0.25})
    made.on_train_start(trainer, module)
    bar = made.train_progress_bar
    assert isinstance(bar, Progress)
    step[0] = 8
    made.on_train_batch_end(trainer, module)
    made.on_train_end()
    lines = [message for message in caplog.messages if message.startswith("train")]
    assert [line.partition(",")[0] for line in lines] == ["train: 8/8 (100 %)"]
    assert file.getvalue() == ""
