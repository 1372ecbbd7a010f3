"""Reads tensors from torch's `.bin` files without torch, and without running anything that is in them."""

from __future__ import annotations

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, UInt16

STORAGES = {"HalfStorage": "<f2", "FloatStorage": "<f4", "DoubleStorage": "<f8", "BFloat16Storage": "<u2"}


class Storage(NamedTuple):
    """The values behind tensors: a file in the archive, and their type."""

    file: str
    kind: str


class LazyTensor(NamedTuple):
    """A tensor that was not read yet."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # in values


def rebuild(
    storage: Storage, offset: int, shape: Sequence[int], strides: Sequence[int], *_: object
) -> LazyTensor:
    """Stands in for torch's function of this place."""
    return LazyTensor(storage, offset, tuple(shape), tuple(strides))


ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): rebuild,
    ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
}


class Reader(pickle.Unpickler):
    """Knows the few names that a file of weights needs; any other is an error."""

    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401 - pickle's signature
        """A stand-in for a name in the file."""
        if module == "torch" and name.endswith("Storage"):
            return name
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it holds {module}.{name}, more than tensors")
        return ALLOWED[module, name]

    def persistent_load(self, pid: Any) -> Storage:  # noqa: ANN401 - pickle's signature
        """A storage by what the file says of it."""
        _, kind, file, *_ = pid
        return Storage(str(file), str(kind))


class TorchFile:
    """The tensors of a zip file that `torch.save` wrote (torch 1.6 or newer).

    Args:
        path: the file.

    Raises:
        OSError, zipfile.BadZipFile, pickle.UnpicklingError ...: it is another kind of file, or damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with zipfile.ZipFile(path) as archive:
            (index,) = (name for name in archive.namelist() if PurePosixPath(name).name == "data.pkl")
            self.folder = str(PurePosixPath(index).parent)
            with archive.open(index) as file:
                content = Reader(file).load()
        if not isinstance(content, dict):
            raise pickle.UnpicklingError(f"it holds {type(content).__name__}, expected tensors by name")
        self.tensors = {name: tensor for name, tensor in content.items() if isinstance(tensor, LazyTensor)}

    def read(self, name: str) -> Float32[np.ndarray, "..."]:
        """Reads one tensor; the others' values stay unread."""
        tensor = self.tensors[name]
        if tensor.storage.kind not in STORAGES:
            raise pickle.UnpicklingError(f"{name} is of {tensor.storage.kind}, expected floating point")
        with zipfile.ZipFile(self.path) as archive:
            content = archive.read(f"{self.folder}/data/{tensor.storage.file}")
        dtype = np.dtype(STORAGES[tensor.storage.kind])
        strides = [step * dtype.itemsize for step in tensor.strides]
        offset = tensor.offset * dtype.itemsize
        values: np.ndarray = np.ndarray(
            tensor.shape, dtype, content, offset, strides
        )  # within bounds, or an error
        return from_bfloat16(values) if dtype.kind == "u" else values.astype(np.float32)


def from_bfloat16(values: UInt16[np.ndarray, "*shape"]) -> Float32[np.ndarray, "*shape"]:
    """The numbers behind the bits of bfloat16, which numpy does not know: the upper half of a float32."""
    return (values.astype(np.uint32) << 16).view(np.float32)
