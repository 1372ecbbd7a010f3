"""Where an interrupted fine-tuning goes on: the newest checkpoint that is complete, whole and safe to read.

DeepSpeed unpickles whatever it finds. So every file is read before, with a list of the types that it may name
(none is made: stand-ins take their place), and only a folder that passes is handed on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from itertools import count
from pathlib import Path
from typing import TypeVar, cast

import torch
import torch.distributed
from safetensors import safe_open
from transformers import TrainerState

from egogen.errors import UserError
from egogen.files import read_json
from llava.checkpoints.weights import load_pickle, told

log = logging.getLogger(__name__)
Found = TypeVar("Found")

COMPLETE = "complete.json"  # written into a checkpoint, and into the output folder, when all else is there
STATE = "trainer_state.json"
TAG = "latest"  # names the folder that DeepSpeed wrote
PICKLED = {".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth"}
NUMPY = ("_core.multiarray._reconstruct", "core.multiarray._reconstruct", "dtype", "ndarray")
DEEPSPEED = (
    "runtime.fp16.loss_scaler.DynamicLossScaler",
    "runtime.fp16.loss_scaler.LossScaler",
    "runtime.zero.config.ZeroStageEnum",
    "utils.tensor_fragment.fragment_address",
)
TRANSFORMERS = (
    "debug_utils.DebugOption",
    "integrations.deepspeed.HfDeepSpeedConfig",
    "integrations.deepspeed.HfTrainerDeepSpeedConfig",
    "trainer_pt_utils.AcceleratorConfig",
    "trainer_utils.FSDPOption",
    "trainer_utils.HubStrategy",
    "trainer_utils.IntervalStrategy",
    "trainer_utils.SaveStrategy",
    "trainer_utils.SchedulerType",
    "training_args.OptimizerNames",
    "training_args.ParallelMode",
    "training_args.TrainingArguments",
)
ACCELERATE = ("state.PartialState", "utils.dataclasses.DeepSpeedPlugin", "utils.dataclasses.DistributedType")
# What files may name besides tensors and plain data, by pattern of their own name; others: nothing.
HELD: Mapping[str, list[str]] = {
    "rng_state*.pth": [f"numpy.{name}" for name in NUMPY],
    "*_states.pt": [f"deepspeed.{name}" for name in DEEPSPEED],
    "training_args.bin": [
        *(f"transformers.{name}" for name in TRANSFORMERS),
        *(f"accelerate.{name}" for name in ACCELERATE),
    ],
}


class Unmade:
    """Stands in for an allowed type while a file is checked: made of anything, it keeps nothing."""

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint of a run that can be trusted.

    Unfinished ones are named and passed over. Complete ones that are damaged, or that hold more than ours do,
    are named and, once an older one is found to go on from, set aside as `refused-checkpoint-N`.

    Returns:
        None if no checkpoint is complete.

    Raises:
        UserError: there are complete checkpoints, and all are refused.
    """
    numbered = [path for path in folder.glob("checkpoint-*") if path.name.partition("-")[2].isdecimal()]
    refused: dict[Path, str] = {}
    for path in sorted(numbered, key=step_of, reverse=True):
        if not (path / COMPLETE).exists():
            log.warning("%s: not complete, passed over", path)
            continue
        try:
            check_checkpoint(path)
        except UserError as error:
            refused[path] = str(error)
            continue
        for bad, why in refused.items():
            log.warning("%s; %s is set aside as %s", why, bad.name, set_aside(bad).name)
        return path
    if refused:
        raise UserError(
            f"{next(iter(refused.values()))}; no checkpoint of this run is whole and safe. "
            f"Delete {folder} to begin anew"
        )
    return None


def agreed(find: Callable[[], Found]) -> Found:
    """What the first process finds; all processes learn the same, or fail alike.

    Raises:
        UserError: the one of the first process.
    """
    parallel = torch.distributed.is_initialized()
    found: list[Found | UserError | None] = [None]
    if not parallel or torch.distributed.get_rank() == 0:
        try:
            found = [find()]
        except UserError as error:
            found = [error]
    if parallel:
        torch.distributed.broadcast_object_list(found)
    if isinstance(found[0], UserError):
        raise found[0]
    return cast("Found", found[0])


def step_of(path: Path) -> int:
    """The optimiser step of `checkpoint-N`."""
    return int(path.name.partition("-")[2])


def set_aside(path: Path) -> Path:
    """Renames a checkpoint, so that nothing of it mixes with what training writes under its name."""
    names = (path.with_name(f"refused-{path.name}{f'-{number}' if number else ''}") for number in count())
    return path.rename(next(name for name in names if not name.exists()))


def check_checkpoint(path: Path) -> None:
    """Reads everything in a checkpoint that a library will read, without running anything of it.

    Raises:
        UserError: a file is missing, cut off, not a plain file, or holds more than ours do; names it.
    """
    for file in sorted(path.rglob("*")):
        # What a link leads to is out of sight here, and may be a whole folder.
        if file.is_symlink() or not (file.is_file() or file.is_dir()):
            raise UserError(f"{file}: refused, expected plain files and folders in a checkpoint")
        if file.is_file():
            check_file(file)
    step = read_json(path / STATE, finite=False).get("global_step")
    if step != step_of(path):
        raise UserError(f"{path / STATE}: refused, global_step is {step!r}, expected {step_of(path)}")
    tag = path / TAG
    wanted = {tag.read_text(encoding="utf-8", errors="replace").strip()} if tag.exists() else set()
    found = {child.name for child in path.iterdir() if child.is_dir()}
    if found != wanted:
        raise UserError(
            f"{tag}: refused, names {', '.join(wanted) or 'nothing'}, the folders here are "
            f"{', '.join(sorted(found)) or 'none'}; expected the same"
        )


def check_file(path: Path) -> None:
    """Reads one file as its library will; large tensors are mapped into memory, not read.

    Raises:
        UserError: it is cut off, or names a type or function that ours do not.
    """
    try:
        if path.suffix in PICKLED:
            held = [(Unmade, name) for like, names in HELD.items() if path.match(like) for name in names]
            with torch.serialization.safe_globals(held):  # type: ignore[arg-type]
                load_pickle(path)
        elif path.suffix == ".safetensors":
            with safe_open(path, "pt"):
                pass
        elif path.name == STATE:
            TrainerState.load_from_json(str(path))
        elif path.suffix == ".json":
            read_json(path, finite=False)
    except UserError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever a damaged or hostile file provokes
        raise UserError(f"{path}: refused ({told(error).removeprefix('refused: ')})") from None
