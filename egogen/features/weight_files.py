"""Single tensors out of weight files, without torch and without reading the rest."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from safetensors import SafetensorError, safe_open

from egogen.errors import UserError
from egogen.features.torch_file import TorchFile, from_bfloat16

SUFFIXES = ".safetensors, .bin or .npz"
# What numpy, zipfile, pickle and safetensors raise for damaged bytes.
BROKEN = (
    SafetensorError, OSError, zipfile.BadZipFile, pickle.UnpicklingError, ValueError, KeyError, EOFError,
    TypeError, IndexError, AttributeError, MemoryError, OverflowError,
)  # fmt: skip
Found = TypeVar("Found")
Tensors = dict[str, Callable[[], np.ndarray]]


def weight_files(path: Path) -> list[Path]:
    """The file itself, or a folder's files of weights.

    Raises:
        UserError: there is none of a kind that can be read.
    """
    candidates = sorted(path.iterdir()) if path.is_dir() else [path]
    files = [file for file in candidates if file.suffix and file.suffix in SUFFIXES and file.is_file()]
    if not files:
        what = "exists, but is no such file" if path.exists() else "no such file or folder"
        raise UserError(f"{path}: {what}; expected weights in {SUFFIXES}")
    return files


def read_tensors(path: Path) -> Tensors:
    """The tensors of a file by name, each read when it is called.

    Raises:
        UserError: the file is damaged, or holds more than tensors; also when a tensor is read.
    """
    opened = guarded(path, lambda: open_file(path))
    return {name: partial(guarded, path, read) for name, read in opened.items()}


def guarded(path: Path, read: Callable[[], Found]) -> Found:
    """What `read` gives; what the libraries raise becomes one line.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        return read()
    except BROKEN as error:
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise UserError(f"{path}: not a readable file of weights ({reason}); is it cut off?") from None


def open_file(path: Path) -> Tensors:
    """The tensors of a file by name; whatever is wrong with it is raised as it comes."""
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            return {name: partial(read_npz, path, name) for name in arrays.files}
    if path.suffix == ".bin":
        file = TorchFile(path)
        return {name: partial(file.read, name) for name in file.tensors}
    with safe_open(path, "np") as header:
        return {name: partial(read_safetensors, path, name) for name in header.keys()}  # noqa: SIM118 - no dict


def read_npz(path: Path, name: str) -> np.ndarray:
    """One array of an `.npz` file."""
    with np.load(path, allow_pickle=False) as arrays:
        return arrays[name]


def read_safetensors(path: Path, name: str) -> np.ndarray:
    """One tensor of a safetensors file; numpy has no bfloat16, which becomes float32."""
    with safe_open(path, "np") as file:
        if file.get_slice(name).get_dtype() != "BF16":
            return file.get_tensor(name)
    with path.open("rb") as raw:
        length = int.from_bytes(raw.read(8), "little")
        entry = json.loads(raw.read(length))[name]
        begin, end = entry["data_offsets"]
        raw.seek(8 + length + begin)
        return from_bfloat16(np.frombuffer(raw.read(end - begin), "<u2")).reshape(entry["shape"])
