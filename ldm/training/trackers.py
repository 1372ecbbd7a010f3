"""Where the curves of a run go: TensorBoard, Weights & Biases, MLflow, or nowhere. Never asks for a login."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from uuid import uuid4

from pytorch_lightning.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from egogen.errors import UserError
from egogen.files import atomic_open
from ldm.training.launch import is_first

PROJECT = "lego"
WANDB_ID = "wandb_id"  # in a run's folder


def make_tracker(name: str, run: Path) -> Logger | bool:
    """What keeps the curves, in a folder of the run's own; a resumed run goes on with the same one.

    Args:
        name: as `trainer.tracker` says.
        run: the run's folder.

    Raises:
        UserError: its package is not installed.
    """
    if name in ("wandb", "mlflow") and find_spec(name) is None:
        raise UserError(
            f"trainer.tracker={name}: {name} is not installed; pip install 'lego-egogen[trackers]', or "
            "set it to tensorboard"
        )
    if name == "tensorboard":
        return TensorBoardLogger(run, name="", version="tensorboard")
    if name == "wandb":
        return wandb_tracker(run)
    return mlflow_tracker(run) if name == "mlflow" and is_first() else False


class Wandb(WandbLogger):
    """Weights & Biases, which ends its run when the training ends."""

    def finalize(self, status: str) -> None:
        """Writes what is not written yet."""
        super().finalize(status)
        if self._experiment is not None:
            self._experiment.finish()


def wandb_tracker(run: Path) -> Wandb:
    """Offline unless `WANDB_MODE` says otherwise; `wandb sync` sends it later."""
    if os.environ.setdefault("WANDB_MODE", "offline") == "offline":
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    from wandb import Settings

    run.mkdir(parents=True, exist_ok=True)
    quiet = Settings(silent=True, console="off", save_code=False)
    return Wandb(name=run.name, save_dir=run, project=PROJECT, id=wandb_id(run), settings=quiet)


def wandb_id(run: Path) -> str | None:
    """The run's id there: drawn once and kept in its folder, so that the parts of a resumed run are one.

    Of its place it would be shared: by a run that is begun anew there, and by other machines' runs.
    """
    path = run / WANDB_ID
    if not path.exists():
        if not is_first():
            return None  # only the first process has a run there
        with atomic_open(path) as file:
            file.write(uuid4().hex[:16].encode())
    return path.read_text().strip()


def mlflow_tracker(run: Path) -> MLFlowLogger:
    """MLflow's files below the run's folder, whatever server the environment names."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # a data base needs more packages
    from mlflow.tracking import MlflowClient

    place = (run / "mlflow").resolve().as_uri()
    client = MlflowClient(place)
    known = client.get_experiment_by_name(PROJECT)
    begun = client.search_runs([known.experiment_id if known else client.create_experiment(PROJECT)])
    return MLFlowLogger(
        PROJECT, run.name, place, run_id=begun[0].info.run_id if begun else None, synchronous=True
    )
