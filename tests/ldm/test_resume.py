"""A run that is killed and goes on ends as one that was left alone, bit by bit; which checkpoints stay."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest
import pytorch_lightning as lightning
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from egogen.errors import UserError
from ldm.checkpoints.safe_reading import read
from ldm.data.image_features import Batch
from ldm.module import LatentDiffusion
from ldm.train import main as train
from ldm.training.callbacks.checkpoints import Checkpoints, find_resume, step_files
from ldm.training.run import find_checkpoint
from tests import forked
from tests.forked import Forked
from tests.ldm.toy_run import ATTENTIVE, Run, make_run, training
from tests.second_process import second_process
from tests.small_disk import largest_file

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
STEPS = 12
OFTEN = "trainer.save_every_steps=1"
# Three steps an epoch, two batches a step, so that most checkpoints lie within an epoch.
SETTINGS = [
    "data.batch_size=1",
    "data.workers=2",
    "trainer.effective_batch=2",
    f"trainer.max_steps={STEPS}",
    "trainer.save_every_steps=2",
    "trainer.keep_last=2",
    "trainer.validate_every_epochs=2",
    "trainer.images=0",
    "trainer.threads=1",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("run"), ATTENTIVE)


@pytest.fixture(autouse=True)
def run_root(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUN_ROOT", str(run.root / "runs"))


def command(run: Run, name: str, *words: str) -> list[str]:
    return training(run, name, *SETTINGS, *words)


def folder(run: Run, name: str) -> Path:
    return run.root / "logs" / f"tiny_{name}" / "checkpoints"


@pytest.fixture(scope="module")
def whole(run: Run) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RUN_ROOT", str(run.root / "runs"))
        train(command(run, "whole"))
    return folder(run, "whole") / "last.ckpt"


def start(run: Run, name: str, *words: str, work: Callable[..., object] = forked.command) -> Forked:
    """`main.py` in a process of its own."""
    return Forked(work, "main.py", command(run, name, *words), log=run.root / f"{name}.log", folder=ROOT)


def wait_for(process: Forked, condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.printed
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.005)


def has_step(run: Run, name: str, step: int) -> bool:
    return any(found >= step for found in step_files(folder(run, name)))


def same(first: object, second: object) -> bool:
    """Equal bit by bit, through all dictionaries and lists."""
    if isinstance(first, torch.Tensor):
        return isinstance(second, torch.Tensor) and torch.equal(first, second)
    if isinstance(first, dict):
        return isinstance(second, dict) and first.keys() == second.keys() and all(
            same(value, second[key]) for key, value in first.items()
        )  # fmt: skip
    if isinstance(first, list | tuple):
        return isinstance(second, list | tuple) and all(map(same, first, second))
    return first == second


def assert_same_run(first: Path, second: Path) -> None:
    one, other = read(first), read(second)
    assert one["global_step"] == other["global_step"] == STEPS
    for part in ("state_dict", "optimizer_states", "lr_schedulers"):
        assert same(one[part], other[part]), part


def test_killed_within_an_epoch_and_resumed(run: Run, whole: Path) -> None:
    process = start(run, "killed")
    wait_for(process, lambda: has_step(run, "killed", 4))
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert read(folder(run, "killed") / "last.ckpt")["global_step"] < STEPS
    train(command(run, "killed"))
    assert_same_run(whole, folder(run, "killed") / "last.ckpt")


def test_sigusr1_saves_and_sigterm_saves_and_ends(run: Run) -> None:
    rare = "trainer.save_every_steps=1000"
    process = start(run, "signals", rare, "trainer.max_steps=100000")
    log_file = run.root / "logs" / "tiny_signals" / "configs" / "merged.yaml"
    wait_for(process, log_file.exists)
    # The handlers are there once training has begun; SIGUSR1 would end the process before that.
    wait_for(process, lambda: handles(process.pid, signal.SIGUSR1))
    os.kill(process.pid, signal.SIGUSR1)
    wait_for(process, lambda: has_step(run, "signals", 1))
    first = max(step_files(folder(run, "signals")))
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait() == 143
    assert "SIGTERM: saved step" in process.printed
    assert "Traceback" not in process.printed
    step = read(folder(run, "signals") / "last.ckpt")["global_step"]
    assert step > first
    assert step == max(step_files(folder(run, "signals")))


def handles(pid: int, number: signal.Signals) -> bool:
    """Whether a process has a handler for a signal (Linux)."""
    status = Path(f"/proc/{pid}/status").read_text()
    (mask,) = [int(line.split()[1], 16) for line in status.splitlines() if line.startswith("SigCgt")]
    return bool(mask >> (number - 1) & 1)


def test_terminated_and_resumed(run: Run, whole: Path) -> None:
    end_by_sigterm(run, "terminated", 5)
    assert max(step_files(folder(run, "terminated"))) == 5
    train(command(run, "terminated"))
    assert_same_run(whole, folder(run, "terminated") / "last.ckpt")


def killed_in_validation(script: str, argv: list[str]) -> None:
    """Trains, and dies in the first validation."""
    real = LatentDiffusion.validation_step

    def validation_step(self: LatentDiffusion, batch: Batch, batch_idx: int) -> None:
        if batch_idx:
            os.killpg(0, signal.SIGKILL)
        real(self, batch, batch_idx)

    LatentDiffusion.validation_step = validation_step  # type: ignore[method-assign]
    forked.command(script, argv)


def end_by_kill(run: Run, name: str, step: int) -> None:
    del step  # the first that is validated
    assert start(run, name, work=killed_in_validation).wait() == -signal.SIGKILL


def end_by_sigterm(run: Run, name: str, step: int) -> None:
    def asked(_: Checkpoints, trainer: lightning.Trainer) -> signal.Signals | None:
        return signal.SIGTERM if trainer.global_step == step else None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "agreed", asked)
        with pytest.raises(SystemExit, match="143"):
            train(command(run, name))


@pytest.mark.parametrize(("end", "step"), [(end_by_kill, 6), (end_by_sigterm, STEPS)])
def test_a_validation_that_was_due_is_made_up(
    run: Run, whole: Path, end: Callable[[Run, str, int], None], step: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Witness: the run that was left alone. Steps 6 and 12 are saved first, then validated."""
    name = f"{end.__name__}_{step}"
    end(run, name, step)
    assert max(step_files(folder(run, name))) == step
    assert folder(run, name).joinpath("best.ckpt").exists() == (step == STEPS)
    with caplog.at_level(logging.INFO):
        train(command(run, name))
    assert "nothing to do" not in caplog.text
    assert_same_run(whole, folder(run, name) / "last.ckpt")
    best, expected = (read(path.parent / "best.ckpt") for path in (folder(run, name) / "x", whole))
    for part in ("global_step", "state_dict", "optimizer_states", "lr_schedulers", "callbacks"):
        assert same(best[part], expected[part]), part
    for curve in ("val/loss_simple", "val/loss_simple_ema"):
        assert curve_of(run, name, curve) == curve_of(run, "whole", curve)
    with caplog.at_level(logging.INFO):
        train(command(run, name))
    assert "nothing to do" in caplog.text


def curve_of(run: Run, name: str, tag: str) -> list[tuple[int, float]]:
    """Steps and values of a curve; more than one of a step would be seen."""
    events = EventAccumulator(str(folder(run, name).parent / "tensorboard")).Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


def test_resumed_with_another_batch_size_it_takes_the_same_items(run: Run) -> None:
    train(command(run, "hardware", "trainer.max_steps=5", "model.mixer_dropout=0"))
    train(command(run, "hardware", "data.batch_size=2", "model.mixer_dropout=0"))
    train(command(run, "other", "model.mixer_dropout=0"))
    one, other = (read(folder(run, name) / "last.ckpt")["state_dict"] for name in ("hardware", "other"))
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=1e-4, atol=1e-5, msg=name)


def test_which_checkpoints_stay(run: Run, whole: Path) -> None:
    assert sorted(step_files(whole.parent)) == [10, 12]
    assert {path.name for path in whole.parent.iterdir()} == {
        "best.ckpt", "last.ckpt", "step=0000010.ckpt", "step=0000012.ckpt",
    }  # fmt: skip
    assert whole.samefile(whole.parent / "step=0000012.ckpt")
    assert read(whole.parent / "best.ckpt")["global_step"] in (6, 12)
    train(command(run, "kept", "trainer.keep_last=1", "trainer.keep_every_steps=4"))
    assert sorted(step_files(folder(run, "kept"))) == [4, 8, 12]


def test_a_finished_run_is_left_alone(run: Run, whole: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = whole.stat().st_mtime_ns
    with caplog.at_level(logging.INFO):
        train(command(run, "whole"))
    assert "nothing to do" in caplog.text
    assert whole.stat().st_mtime_ns == before


def test_a_damaged_last_checkpoint_gives_way_to_the_one_before(
    run: Run, whole: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(command(run, "damaged"))
    files = step_files(folder(run, "damaged"))
    newest = files[STEPS]  # last.ckpt is the same file
    os.truncate(newest, newest.stat().st_size // 2)
    assert find_resume(folder(run, "damaged")) == files[STEPS - 2]
    assert "not a readable checkpoint" in caplog.text
    assert "resume from the checkpoint before it" in caplog.text
    train(command(run, "damaged"))
    assert_same_run(whole, folder(run, "damaged") / "last.ckpt")
    for path in folder(run, "damaged").glob("*.ckpt"):
        path.write_bytes(b"")
    with pytest.raises(UserError, match="no checkpoint of this run is whole"):
        train(command(run, "damaged"))


def test_a_full_disk_ends_neither_training_nor_what_was_saved(
    run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    save = torch.save

    class Full:
        """A file on a disk that gets full after the first bytes."""

        def __init__(self, file: BinaryIO) -> None:
            self.file = file

        def write(self, data: bytes) -> int:
            if self.file.tell() > 500:
                raise OSError(28, "No space left on device")
            return self.file.write(data)

        def flush(self) -> None:
            self.file.flush()

    def full(content: dict[str, object], file: BinaryIO) -> None:
        save(content, Full(file) if content.get("global_step") in (4, 5) else file)

    monkeypatch.setattr(torch, "save", full)
    train(command(run, "full", "trainer.keep_last=0", OFTEN))
    assert sorted(step_files(folder(run, "full"))) == [1, 2, 3, 6, 7, 8, 9, 10, 11, 12]
    assert "No space left on device" in caplog.text
    assert "training goes on" in caplog.text
    assert not list(folder(run, "full").glob(".*"))
    monkeypatch.setattr(torch, "save", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(
        UserError,
        match=r"ended at step 12, but .*ckpt: not written \(No space left\); it needs .*B, the disk has",
    ):
        train(command(run, "fuller"))


def test_what_lies_beyond_the_resumed_step_is_set_aside(run: Run, whole: Path) -> None:
    train(command(run, "branch", "trainer.max_steps=6", "trainer.keep_last=0", OFTEN))
    folder_of = folder(run, "branch")
    (folder_of / ".step=0000009.ckpt.abc.part").touch()
    train(
        [
            *command(run, "branch", "trainer.keep_last=0", OFTEN),
            "--resume",
            str(folder_of / "step=0000003.ckpt"),
        ]
    )
    assert sorted(step_files(folder_of)) == [1, 2, 3, *range(4, 13)]
    assert len(list(folder_of.glob("abandoned-*"))) == 3
    assert not list(folder_of.glob(".*"))
    assert_same_run(whole, folder_of / "last.ckpt")


def test_a_run_that_began_elsewhere_goes_on_from_its_own(
    run: Run, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--resume", str(whole.parent / "step=0000010.ckpt")]
    train([*command(run, "elsewhere"), *words])
    assert (
        find_checkpoint(folder(run, "elsewhere").parent, Path(words[1]))
        == folder(run, "elsewhere") / "last.ckpt"
    )
    # One of its own is what is asked for, but not when Slurm gives the same command again.
    own = whole.parent / "step=0000010.ckpt"
    assert find_checkpoint(whole.parents[1], own) == own
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert find_checkpoint(whole.parents[1], own) == whole.parent / "last.ckpt"


def test_weights_alone_are_no_run(run: Run) -> None:
    with pytest.raises(UserError, match=r"start\.ckpt: holds weights without the state of a run; start from"):
        train([*command(run, "alone"), "--resume", str(run.start)])
    with pytest.raises(UserError, match="neither a checkpoint nor a folder"):
        train([*command(run, "alone"), "--resume", str(run.root / "none")])


def test_two_processes_train_as_one(run: Run) -> None:
    """DDP on the CPU by gloo: the same global batch gives the same losses, gradients and weights."""
    plain = ["model.mixer_dropout=0", "trainer.effective_batch=4", "trainer.max_steps=3", "data.workers=0"]
    words = command(run, "two", *plain, "trainer.processes=2", "data.batch_size=2")
    # A shell's own process: Lightning starts the second by the command line of the first.
    two = subprocess.run(
        [sys.executable, "main.py", *words], cwd=ROOT, text=True, capture_output=True, check=False
    )
    assert two.returncode == 0, two.stderr
    assert "2 a process x 2 processes x accumulation 1" in two.stderr
    train(command(run, "one", *plain, "data.batch_size=4"))
    first, second = (losses(run, name) for name in ("one", "two"))
    for curve in ("train/gradient_norm", "val/loss_simple", "val/loss_simple_ema"):
        assert len(first[curve]) > 0
        assert first[curve] == pytest.approx(second[curve], rel=1e-3)


def losses(run: Run, name: str) -> dict[str, list[float]]:
    """The curves that a run has written."""
    events = EventAccumulator(str(folder(run, name).parent / "tensorboard")).Reload()
    return {tag: [event.value for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_one_run_by_two_processes_is_refused(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    place = folder(run, "shared").parent
    with second_process(place) as first:
        with pytest.raises(UserError, match=rf"training is under way in process {first.pid} "):
            train(command(run, "shared"))
        monkeypatch.setenv("LOCAL_RANK", "1")  # of DDP's processes the first alone holds the run
        monkeypatch.setattr("ldm.training.run.train", lambda *_: None)
        train(command(run, "shared"))
    assert not place.exists()


def test_a_disk_that_is_full_at_the_start_is_one_line(run: Run) -> None:
    words = command(run, "start")
    with (
        largest_file(100),
        pytest.raises(UserError, match=r"tiny_start.*: not written .*File too large.* free"),
    ):
        train(words)
