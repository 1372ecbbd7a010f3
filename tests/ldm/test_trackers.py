"""Curves of a run: the same in TensorBoard, Weights & Biases and MLflow, offline, without a login."""

from __future__ import annotations

import builtins
import os
import shutil
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from egogen.errors import UserError
from ldm.config.merge import load_config
from ldm.config.sections import TrainConfig
from ldm.train import main as train
from ldm.training import trackers
from ldm.training.trackers import make_tracker, wandb_tracker
from tests.forked import Forked
from tests.ldm.toy_run import Run, make_run, training

Curves = dict[str, dict[int, float]]
SETTINGS = [
    "trainer.images=0", "trainer.threads=1", "trainer.save_every_steps=9", "data.batch_size=4",
    "trainer.validate_every_epochs=9", "model.gradient_checkpointing=false", "trainer.max_steps=2",
]  # fmt: skip
TIMED = ("speed/pairs_per_second", "speed/data_wait_share")


@pytest.fixture(scope="module")
def asked() -> list[object]:
    """Addresses that somebody wanted to connect to, other than files of this machine."""
    return []


@pytest.fixture(scope="module", autouse=True)
def offline(asked: list[object]) -> Iterator[None]:
    """No way out: connections beyond this machine, and names of others, are noted and refused."""
    real = socket.socket.connect

    def connect(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX:
            asked.append(address)
            raise OSError("this test has no network")
        real(self, address)

    def getaddrinfo(*address: Any, **_: Any) -> None:
        asked.append(address)
        raise OSError("this test has no network")

    with pytest.MonkeyPatch.context() as patch:
        for name in ("WANDB_MODE", "WANDB_API_KEY", "MLFLOW_TRACKING_URI"):
            patch.delenv(name, raising=False)
        patch.setattr(socket.socket, "connect", connect)
        patch.setattr(socket, "getaddrinfo", getaddrinfo)
        patch.setattr(builtins, "input", lambda *_: pytest.fail("asks for something"))
        yield
    os.environ.pop("WANDB_MODE", None)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    root = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RUN_ROOT", str(root / "runs"))
        yield make_run(root)


def fit(run: Run, tracker: str, *words: str) -> Path:
    train(training(run, tracker, *SETTINGS, f"trainer.tracker={tracker}", *words))
    return run.root / "logs" / f"tiny_{tracker}"


def of_tensorboard(folder: Path) -> Curves:
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    return {tag: {each.step: each.value for each in events.Scalars(tag)} for tag in events.Tags()["scalars"]}


def of_mlflow(folder: Path) -> Curves:
    (metrics,) = (folder / "mlflow").glob("*/*/metrics")
    files = {f"{path.relative_to(metrics)}": path for path in metrics.rglob("*") if path.is_file()}
    rows = {name: [line.split() for line in path.read_text().splitlines()] for name, path in files.items()}
    return {name: {int(row[2]): float(row[1]) for row in found} for name, found in rows.items()}


def of_wandb(folder: Path) -> Curves:
    """From its files of records, which are LevelDB's log: blocks of 32 KiB, a head of 7 bytes a piece."""
    from wandb.proto.wandb_internal_pb2 import Record

    found: Curves = {}
    for path in sorted((folder / "wandb").glob("offline-run-*/*.wandb")):
        data, place, whole = path.read_bytes(), 7, b""
        while place + 7 <= len(data):
            if 32768 - place % 32768 < 7:
                place += 32768 - place % 32768
                continue
            _, length, kind = struct.unpack("<IHB", data[place : place + 7])
            whole += data[place + 7 : place + 7 + length]
            place += 7 + length
            if kind in (1, 4):  # whole, or the last piece
                record, whole = Record.FromString(whole), b""
                row = {
                    each.key or "/".join(each.nested_key): float(each.value_json)
                    for each in record.history.item
                }
                for name, value in row.items():
                    found.setdefault(name, {})[int(row["trainer/global_step"])] = value
    return found


def whole(reader: Callable[[Path], Curves], folder: Path, points: int) -> Curves:
    """What is read once all is written: wandb's writer is a process of its own."""
    end = time.monotonic() + 60
    while len((found := reader(folder))["train/loss_simple"]) < points and time.monotonic() < end:
        time.sleep(0.2)
    return found


READERS: dict[str, Callable[[Path], Curves]] = {"wandb": of_wandb, "mlflow": of_mlflow}


@pytest.fixture(scope="module")
def expected(run: Run) -> Curves:
    fit(run, "tensorboard", "trainer.max_steps=1")
    found = of_tensorboard(fit(run, "tensorboard"))
    assert set(found["train/loss_simple"]) == {0, 1}
    return found


@pytest.mark.parametrize("tracker", READERS)
def test_all_keep_the_same_curves_without_a_network(
    tracker: str, run: Run, expected: Curves, asked: list[object]
) -> None:
    """Witness: TensorBoard's, to its 32 bits; a run that goes on adds to the same curve."""
    fit(run, tracker, "trainer.max_steps=1")
    found = whole(READERS[tracker], fit(run, tracker), len(expected["train/loss_simple"]))
    for name, curve in expected.items():
        if name not in TIMED:
            assert found[name] == pytest.approx(curve, rel=1e-6), name
    assert set(TIMED) <= set(found)
    assert set(found) - set(expected) <= {
        "trainer/global_step",
        "_timestamp",
        "_runtime",
        "_step",
        "_wandb/runtime",
    }
    assert asked == []


def test_none_keeps_none(run: Run) -> None:
    folder = fit(run, "none", "trainer.max_steps=1")
    assert {path.name for path in folder.iterdir()} == {"checkpoints", "configs", "validated.json"}


def test_wandb_goes_by_what_the_user_has_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    make_tracker("wandb", tmp_path)
    assert os.environ["WANDB_MODE"] == "offline"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    make_tracker("wandb", tmp_path)
    assert os.environ["WANDB_MODE"] == "disabled"


def test_wandbs_id_is_of_the_run_and_not_of_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that goes on has its own again; one begun anew in the same place has another."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = tmp_path / "run"
    own = wandb_tracker(run).version
    assert own
    assert wandb_tracker(run).version == own
    monkeypatch.setenv("RANK", "1")  # of its second process
    assert wandb_tracker(run).version == own
    assert wandb_tracker(tmp_path / "other").version is None
    monkeypatch.delenv("RANK")
    shutil.rmtree(run)
    assert wandb_tracker(run).version != own


@pytest.mark.parametrize("tracker", READERS)
def test_a_missing_package_is_one_line(tracker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers, "find_spec", lambda name: None if name == tracker else find_spec(name))
    with pytest.raises(
        UserError, match=rf"trainer.tracker={tracker}: {tracker} is not .*lego-egogen\[trackers\]"
    ):
        make_tracker(tracker, tmp_path)


def test_an_unknown_one_is_named() -> None:
    with pytest.raises(
        UserError, match=r"trainer.tracker: got 'x', allowed: tensorboard, wandb, mlflow, none"
    ):
        load_config(TrainConfig, [], ["trainer.tracker=x"])


def test_neither_is_imported_unless_asked_for(tmp_path: Path) -> None:
    """All that trains has been imported in the process that others are forked from."""
    child = Forked(print_late, log=tmp_path / "late.log")
    assert child.wait() == 0
    assert child.printed == "late: []\n"


def print_late() -> None:
    print("late:", sorted({"mlflow", "wandb"} & set(sys.modules)))  # noqa: T201
