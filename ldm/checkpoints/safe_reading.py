"""Safe reading of checkpoint files: nothing in them is executed."""

from __future__ import annotations

import json
import logging
import pickle
from pathlib import Path
from typing import Any

import torch

from egogen.errors import UserError, reason
from egogen.features.weight_files import BROKEN, SAFETENSORS, ZIP, form_of, surplus
from egogen.files import regular
from egogen.hints import hint
from egogen.pickled_texts import check_texts
from ldm.checkpoints.compact_files import read_tensors
from ldm.networks.distilled import DISTILLED

log = logging.getLogger(__name__)

# Our files state beside `state_dict` the sizes of their networks, and the side of the frames they drew last.
ARCHITECTURE = "architecture"
RESOLUTION = "resolution"
GUIDANCE = "guidance"
SETTINGS = "settings"  # of the run that wrote them
LORA = "lora"  # adapters alone, and what they were trained on: `ldm.checkpoints.lora_run`


class Unread:
    """Stands in for the types of trainers that old files name; nothing of theirs is run or kept."""

    def __init__(self, *_: object) -> None:
        pass


class UnreadFields(dict[str, Any]):
    """The same for types that are dictionaries."""


# Types besides tensors and plain data that published files are known to hold, by their names in the file.
KNOWN_TYPES = [
    (Unread, "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint"),
    (Unread, "pytorch_lightning.callbacks.early_stopping.EarlyStopping"),
    (Unread, "pytorch_lightning.callbacks.lr_monitor.LearningRateMonitor"),
    (UnreadFields, "pytorch_lightning.utilities.parsing.AttributeDict"),
    (UnreadFields, "lightning_fabric.utilities.data.AttributeDict"),
    # EgoVLP's files hold the parsed settings of its trainer.
    (Unread, "parse_config.ConfigParser"),
    (Unread, "argparse.Namespace"),
    (Unread, "pathlib.PosixPath"),
]


def read(path: Path) -> dict[str, Any]:
    """Reads a file of torch or safetensors, told by its first bytes, without executing anything in it.

    Returns:
        The file's content; its weights by published name are under `state_dict`.

    Raises:
        UserError: missing, truncated, no checkpoint, or with content that is neither tensors nor plain data.
    """
    if not regular(path).exists():
        raise UserError(f"{path}: no such checkpoint file{hint(path)}")
    form = ""
    try:
        form = form_of(path)
        if form == SAFETENSORS:
            return read_safetensors(path)
        if not form:
            raise EOFError("it begins as no file of weights does")
        check_texts(path)
        # Files from before torch 1.6 cannot be mapped; of paths torch takes their suffix for what they are.
        mapped = form == ZIP and path.suffix.lower() != f".{SAFETENSORS}"
        with torch.serialization.safe_globals(KNOWN_TYPES), path.open("rb") as file:  # type: ignore[arg-type]
            opened = path if mapped else file
            content = torch.load(opened, map_location="cpu", weights_only=True, mmap=mapped)
    except UserError:
        raise
    except BROKEN as error:
        more = isinstance(error, pickle.UnpicklingError) and "truncated" not in f"{error}"
        what = (
            "refused, it holds more than tensors and plain data"
            if more
            else "not a readable checkpoint, cut off perhaps"
        )
        if form == SAFETENSORS and (behind := surplus(path)):
            what = f"not a readable checkpoint, {behind} bytes are behind its tensors; download it again"
        raise UserError(f"{path}: {what} ({reason(error)[:300]})") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: found {type(content).__name__}, expected a checkpoint with `state_dict`")
    return content if "state_dict" in content else {"state_dict": content}


def is_made(path: Path) -> bool:
    """Whether a checkpoint is there and whole; a damaged one gets a warning: it is to be made anew."""
    if not path.exists():
        return False
    try:
        read(path)
    except UserError as error:
        log.warning("%s; it is made anew", error)
        return False
    return True


def read_safetensors(path: Path) -> dict[str, Any]:
    """Reads tensors, and what our files state in their header."""
    state, header = read_tensors(path)
    stated = {
        name: json.loads(header[name])
        for name in (ARCHITECTURE, RESOLUTION, DISTILLED, GUIDANCE)
        if name in header
    }
    return {"state_dict": state, **stated}
