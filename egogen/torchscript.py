"""Reads the weights in a TorchScript archive, as OpenAI published CLIP, and runs nothing that is in it."""

from __future__ import annotations

import io
import math
import pickle
import re
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from egogen.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

DTYPES = {
    "HalfStorage": "float16", "BFloat16Storage": "bfloat16", "FloatStorage": "float32",
    "DoubleStorage": "float64", "BoolStorage": "bool", "ByteStorage": "uint8", "CharStorage": "int8",
    "ShortStorage": "int16", "IntStorage": "int32", "LongStorage": "int64",
}  # fmt: skip
# Typed lists and dictionaries pass through these functions.
TYPED = ("build_intlist", "build_doublelist", "build_boollist", "build_tensorlist", "restore_type_tag")
# All that TorchScript writes; none of them makes room for more than the file holds.
OPCODES = (
    pickle.PROTO, pickle.STOP, pickle.GLOBAL, pickle.NEWOBJ, pickle.REDUCE, pickle.BUILD, pickle.BINPERSID,
    pickle.MARK, pickle.EMPTY_TUPLE, pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3,
    pickle.EMPTY_LIST, pickle.APPEND, pickle.APPENDS, pickle.EMPTY_DICT, pickle.SETITEM, pickle.SETITEMS,
    pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE, pickle.BININT, pickle.BININT1, pickle.BININT2,
    pickle.LONG1, pickle.BINFLOAT, pickle.BINUNICODE, pickle.BINPUT, pickle.LONG_BINPUT, pickle.BINGET,
    pickle.LONG_BINGET,
)  # fmt: skip
MODULE = re.compile(
    r"^class (\w+)\(Module\):\n  __parameters__ = \[(.*)\]\n(?:  __buffers__ = \[(.*)\]\n)?", re.MULTILINE
)
# Entries of OpenAI's files that are not weights.
SETTINGS = ("input_resolution", "context_length", "vocab_size")
MOST_TEXT = 2**26  # bytes of names and code, unpacked
MOST_NAMES, LONGEST_NAME = 2**18, 2**12


class ScriptedTensor(NamedTuple):
    """A tensor as the archive describes it: a stored file and a view of its values."""

    storage: tuple[str, str, str, str, int]  # "storage", type, file, device, number of values
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # in values
    requires_grad: bool
    hooks: None


class ScriptedModule:
    """Stands in for a class of the archive."""

    place: str  # its full name there
    fields: dict[str, object]

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, dict):
            raise pickle.UnpicklingError(f"{self.place} restores itself by code of its own")
        self.fields = state


class ScriptReader(pickle._Unpickler):
    """Knows the few opcodes and names that modules and tensors need; any other is an error.

    What a name becomes is made anew for each file and calls nothing, so that a file can change nothing else.

    Args:
        archive: the open file.
        size: its bytes on disk.
    """

    dispatch = {code[0]: pickle._Unpickler.dispatch[code[0]] for code in OPCODES}  # noqa: RUF012 - pickle's own

    def __init__(self, archive: zipfile.ZipFile, size: int) -> None:
        (index,) = (name for name in archive.namelist() if re.fullmatch(r"[^/]+/data\.pkl", name))
        self.archive, self.folder, self.size = archive, index.split("/")[0], size
        self.left = size + MOST_TEXT
        self.values, self.names = cache(self.take), cache(self.declared)
        super().__init__(io.BytesIO(self.take("data.pkl")))

    def take(self, name: str) -> bytearray:
        """Unpacks a file of the archive; all of them together hold no more than it can honestly hold."""
        entry = self.archive.getinfo(f"{self.folder}/{name}")
        self.left -= entry.file_size
        if self.left < 0:
            raise pickle.UnpicklingError("it unpacks to far more than its size")
        with self.archive.open(entry) as file:
            return bytearray(file.read(entry.file_size))

    def find_class(self, module: str, name: str) -> object:
        """A stand-in for a name in the file."""
        if module.split(".")[0] == "__torch__":
            return type("Module", (ScriptedModule,), {"place": f"{module}.{name}"})
        if module == "torch" and name in DTYPES:
            return name
        stand_in: Callable[..., object]
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            stand_in = lambda *fields: ScriptedTensor(*fields)  # noqa: E731
        elif (module, name) == ("collections", "OrderedDict"):
            stand_in = lambda: None  # noqa: E731 - hooks of a tensor, of which there are none
        elif module == "torch.jit._pickle" and name in TYPED:
            stand_in = lambda value, *_: value  # noqa: E731
        else:
            raise pickle.UnpicklingError(f"it holds {module}.{name}, more than tensors")
        return stand_in

    def persistent_load(self, pid: object) -> object:
        """What the file says of a storage; it is read with its tensor."""
        return pid

    def declared(self, file: str) -> dict[str, tuple[str, ...]]:
        """Modules in a file of code -> the names of their parameters, then those of their buffers."""
        found = MODULE.findall(self.take(file).decode())
        return {name: tuple(re.findall('"([^"]*)"', f"{first} {then}")) for name, first, then in found}

    def state(self) -> dict[str, Tensor]:
        """Parameters and buffers by name, in the order of `state_dict`."""
        found: dict[str, Tensor] = {}
        pending: list[tuple[str, object]] = [("", self.load())]
        seen = 0
        while pending:
            prefix, module = pending.pop()
            if not isinstance(module, ScriptedModule):
                raise pickle.UnpicklingError(f"it holds {type(module).__name__}, expected a module")
            folder, _, name = module.place.rpartition(".")
            for own in self.names(f"code/{folder.replace('.', '/')}.py").get(name, ()):
                if isinstance(value := module.fields[own], ScriptedTensor):
                    found[f"{prefix}{own}"] = self.tensor(value)
            inner = [(f"{prefix}{key}.", value) for key, value in module.fields.items()]
            pending += [pair for pair in reversed(inner) if isinstance(pair[1], ScriptedModule)]
            seen += 1
            if seen + len(pending) + len(found) > MOST_NAMES or len(prefix) > LONGEST_NAME:
                raise pickle.UnpicklingError("its modules hold each other without end")
        return found

    def tensor(self, described: ScriptedTensor) -> Tensor:
        """Makes a tensor; those of one storage share their values."""
        import torch

        (_, kind, file, _, count), offset, shape, strides, *_ = described
        dtype: torch.dtype = getattr(torch, DTYPES[kind])
        values = self.values(f"data/{file}")
        numbers = (count, offset, *shape, *strides)
        if len(shape) != len(strides) or not all(type(number) is int and number >= 0 for number in numbers):
            raise pickle.UnpicklingError(f"a tensor of shape {shape} and strides {strides}")
        if len(values) != count * dtype.itemsize:
            raise pickle.UnpicklingError(f"{count} values in {len(values)} bytes")
        last = sum((length - 1) * step for length, step in zip(shape, strides, strict=True))
        if offset + (last + 1 if all(shape) else 0) > count:
            raise pickle.UnpicklingError(f"a tensor of shape {shape} reaches past its {count} values")
        if math.prod(shape) * dtype.itemsize > self.size:
            raise pickle.UnpicklingError(f"a tensor of shape {shape}, larger than the file")
        flat = torch.frombuffer(values, dtype=dtype) if values else torch.empty(0, dtype=dtype)
        return flat.as_strided(shape, strides, offset)


def is_torchscript(path: Path) -> bool:
    """Whether a file is a TorchScript archive; a plain file of weights is none."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def read_torchscript(path: Path) -> dict[str, Tensor]:
    """The parameters and buffers of a TorchScript archive, as its `state_dict` would give them on the CPU.

    Raises:
        UserError: it is damaged, or holds more than modules with tensors and plain data.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return ScriptReader(archive, path.stat().st_size).state()
    except Exception as error:  # noqa: BLE001 - a damaged or hostile file ends in nearly any kind
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path}: refused, not an archive of weights alone ({reason})") from None
