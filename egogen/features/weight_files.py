"""Single tensors out of weight files, without reading the rest; torch is asked for its own files alone."""

from __future__ import annotations

import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from functools import partial
from operator import index
from pathlib import Path
from typing import TypeVar

import numpy as np
from jaxtyping import Float32, UInt16
from safetensors import SafetensorError, safe_open

from egogen.errors import UserError, reason
from egogen.features.store_names import SUFFIXES
from egogen.hints import hint
from egogen.pickled_texts import check_texts
from egogen.unfetched import HEAD, check_fetched
from egogen.walks import shown

# What numpy, zipfile, pickle, torch and safetensors raise for damaged bytes.
BROKEN = (
    SafetensorError, OSError, zipfile.BadZipFile, pickle.UnpicklingError, ValueError, KeyError, EOFError,
    TypeError, IndexError, AttributeError, MemoryError, OverflowError, RuntimeError, AssertionError,
    struct.error,
)  # fmt: skip
SAFETENSORS, ZIP, PICKLE = "safetensors", "zip", "pickle"  # how files of weights begin
# What empty tensors mean; each stage says beside it what else helps.
SHARDED = (
    "a checkpoint of DeepSpeed's ZeRO-3, whose weights lie in shards: join them by the zero_to_fp32.py in "
    "the folder that DeepSpeed wrote"
)
Found = TypeVar("Found")
Tensors = dict[str, Callable[[], np.ndarray]]


def weight_files(path: Path) -> list[Path]:
    """The file itself, or a folder's files of weights.

    Raises:
        UserError: there is none of a kind that can be read.
    """
    candidates = shown(path.iterdir()) if path.is_dir() else [path]
    files = [file for file in candidates if file.suffix and file.suffix in SUFFIXES and file.is_file()]
    if not files:
        what = "exists, but is no such file" if path.exists() else f"no such file or folder{hint(path)}"
        raise UserError(f"{path}: {what}; expected weights in {SUFFIXES}")
    return files


def form_of(path: Path) -> str:
    """What kind of file of weights this is, by its first bytes, since a suffix may be wrong; "" for none.

    Raises:
        UserError: it cannot be read, or stands for a file that was not fetched.
    """
    try:
        with path.open("rb") as file:
            head = file.read(HEAD)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({reason(error)})") from None
    if head[:4] == b"PK\x03\x04":
        return ZIP
    # The length of a header may begin as pickles do.
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size:
        return SAFETENSORS
    if head[:1] == b"\x80":
        return PICKLE
    check_fetched(path, head)
    return ""


def read_tensors(path: Path) -> Tensors:
    """The tensors of a file by name, each read when it is called.

    Raises:
        UserError: the file is damaged, or holds more than tensors; also when a tensor is read.
    """
    opened = guarded(path, lambda: open_file(path))
    return {name: partial(guarded, path, read) for name, read in opened.items()}


LONGEST_HEADER = 100_000_000  # bytes; safetensors itself takes no longer one


def surplus(path: Path) -> int:
    """Bytes behind the last tensor of a safetensors file: what a copy, or a server, has put there."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > min(path.stat().st_size, LONGEST_HEADER):
                return 0
            entries: dict[str, dict[str, list[int]]] = json.loads(file.read(length))
        ends = [index(entry["data_offsets"][1]) for name, entry in entries.items() if name != "__metadata__"]
        return max(0, path.stat().st_size - 8 - length - max(ends, default=0))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return 0


def fault_of(path: Path) -> str:
    """What may be wrong with a file of weights that cannot be read, and what to do."""
    more = surplus(path)
    return f"{more} bytes are behind its tensors; download it again" if more else "is it cut off?"


def guarded(path: Path, read: Callable[[], Found]) -> Found:
    """What `read` gives; what the libraries raise becomes one line.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        return read()
    except UserError:
        raise
    except BROKEN as error:
        raise UserError(
            f"{path}: not a readable file of weights ({reason(error)[:160]}); {fault_of(path)}"
        ) from None


def open_file(path: Path) -> Tensors:
    """The tensors of a file by name; whatever is wrong with it is raised as it comes."""
    form = form_of(path)
    if form == ZIP and path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            return {name: partial(read_npz, path, name) for name in arrays.files}
    if form in (ZIP, PICKLE) or (path.suffix == ".bin" and not form):
        return open_bin(path)
    with safe_open(path, "np") as header:
        return {name: partial(read_safetensors, path, name) for name in header.keys()}  # noqa: SIM118 - no dict


def open_bin(path: Path) -> Tensors:
    """The tensors of a file of `torch.save` (torch 1.6 or newer); nothing that is in it is run.

    Raises:
        UserError: torch is not installed.
    """
    try:
        import torch
    except ImportError:
        raise UserError(
            f"{path}: needs torch, which this environment lacks; use the ldm environment"
        ) from None

    def numbers(name: str) -> Float32[np.ndarray, "..."]:
        if not content[name].is_floating_point():
            raise TypeError(f"{name} is of {content[name].dtype}, expected floating point")
        found: np.ndarray = content[name].detach().float().numpy()
        return found

    check_texts(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise TypeError(f"it holds {reason(error).removeprefix('it names ')}, more than tensors") from None
    if not isinstance(content, dict):
        raise TypeError(f"it holds {type(content).__name__}, expected tensors by name")
    return {name: partial(numbers, name) for name, value in content.items() if torch.is_tensor(value)}


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


def from_bfloat16(values: UInt16[np.ndarray, "*shape"]) -> Float32[np.ndarray, "*shape"]:
    """The numbers behind the bits of bfloat16, which numpy does not know: the upper half of a float32."""
    return (values.astype(np.uint32) << 16).view(np.float32)
