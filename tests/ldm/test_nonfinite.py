"""A step without a finite gradient is named and left out; too many in a row end training."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import pytorch_lightning as lightning
import torch

from egogen.errors import UserError
from ldm.checkpoints.safe_reading import read
from ldm.config.merge import load_config
from ldm.config.sections import OptimizerConfig, SamplingConfig, TrainConfig
from ldm.data.pairs import EgoGenPairs, SplitFiles
from ldm.module import Batch, LatentDiffusion
from ldm.networks.architecture import build
from ldm.train import main as train
from ldm.training.adamw import gradient_norm, make_optimizer, rate
from ldm.training.callbacks.checkpoints import step_files
from ldm.training.callbacks.grids import ImageGrids
from tests.ldm.toy_run import SHAPE, WIDTH, Run, make_run, training


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("run"))


def poison(monkeypatch: pytest.MonkeyPatch, bad_steps: set[int]) -> list[str]:
    """Makes the second item's loss of each batch of some steps not a number; returns the items it met."""
    original, met = LatentDiffusion.loss, []

    def loss(self: LatentDiffusion, batch: Batch, **draws: object) -> torch.Tensor:
        losses = original(self, batch, **draws)  # type: ignore[arg-type]
        if self.training and self.trainer.global_step in bad_steps:
            met.append(batch["item"][1])
            losses = losses * torch.tensor([1.0, float("nan")])
        return losses

    monkeypatch.setattr(LatentDiffusion, "loss", loss)
    return met


def fit(run: Run, name: str, *words: str) -> Path:
    plain = ("trainer.images=0", "trainer.save_every_steps=1", "trainer.keep_last=0")
    train(training(run, name, *plain, *words))
    return run.root / "logs" / f"tiny_{name}" / "checkpoints"


def test_one_bad_step_changes_nothing_and_its_items_are_named(
    run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    met = poison(monkeypatch, {2})
    with caplog.at_level(logging.WARNING):
        folder = fit(run, "one", "trainer.max_steps=4")
    assert len(met) == 2  # batches of the step
    assert f"step 2 is left out, its loss is not finite; items: {', '.join(met)}" in caplog.text
    files = step_files(folder)
    before, after, later = (read(files[step])["state_dict"] for step in (2, 3, 4))
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not all(torch.equal(after[name], later[name]) for name in after)
    assert all(value.isfinite().all() for value in later.values())


def test_several_in_a_row_end_training_with_good_checkpoints(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, {2, 3, 4, 5, 6})
    with pytest.raises(UserError, match="training: 3 steps in a row had no finite gradient, the last with"):
        fit(run, "many", "trainer.max_steps=9", "trainer.max_nonfinite=3")
    last = read(run.root / "logs" / "tiny_many" / "checkpoints" / "last.ckpt")
    assert all(value.isfinite().all() for value in last["state_dict"].values())


def test_a_grid_that_is_not_finite_is_said_and_not_drawn(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = load_config(TrainConfig, [], run.words())
    parts = build(SHAPE)
    torch.nn.init.constant_(parts.unet.conv_out.weight, float("nan"))
    pairs = EgoGenPairs([SplitFiles(config.data, "val", WIDTH)])
    grids = ImageGrids(pairs, SamplingConfig(steps=1), tmp_path, every=1, count=2)
    grids.draw(
        lightning.Trainer(logger=False, accelerator="cpu", enable_checkpointing=False),
        LatentDiffusion(parts, config),
        3,
    )
    names = [f"{item.clip}/{item.id}" for item in pairs.sources[0].items[:2]]
    assert f"grid of step 3 not drawn: {', '.join(names)} not finite" in caplog.text
    assert not list(tmp_path.iterdir())


def test_the_norm_of_gradients_is_that_of_all_of_them() -> None:
    parameters = [torch.nn.Parameter(torch.zeros(3)), torch.nn.Parameter(torch.zeros(2, 2))]
    parameters[0].grad, parameters[1].grad = torch.tensor([3.0, 0, 0]), torch.tensor([[0, 4.0], [0, 0]])
    assert gradient_norm(parameters).item() == pytest.approx(5)
    parameters[1].grad[0, 0] = float("inf")
    assert not gradient_norm(parameters).isfinite()


def test_eight_bits_without_the_library_are_refused_or_left(caplog: pytest.LogCaptureFixture) -> None:
    parameters = [torch.nn.Parameter(torch.zeros(3))]
    with pytest.raises(UserError, match="eight_bit=on: bitsandbytes needs a GPU"):
        make_optimizer(parameters, OptimizerConfig(eight_bit="on"))
    with caplog.at_level(logging.INFO):
        made = make_optimizer(parameters, OptimizerConfig(eight_bit="auto", lr=0.5, betas=[0.1, 0.2]))
    assert "moments stay in 32 bits" in caplog.text
    group = made.param_groups[0]
    assert (group["lr"], group["betas"], group["eps"], group["weight_decay"]) == (0.5, (0.1, 0.2), 1e-8, 0.01)


def test_rates() -> None:
    constant = OptimizerConfig(warmup_steps=4)
    assert [rate(constant, step, 10) for step in (0, 1, 3, 9)] == [0.25, 0.5, 1, 1]
    cosine = OptimizerConfig(schedule="cosine")
    assert [rate(cosine, step, 10) for step in (0, 5, 10)] == pytest.approx([1, 0.5, 0])
