"""Long texts in the pickles of weight files, over which torch's safe reading would stand for hours."""

from __future__ import annotations

import pickletools
import struct
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from io import BufferedIOBase
from pathlib import Path
from typing import IO, TypeGuard

from egogen.errors import UserError

LONGEST = 10_000  # signs without a space; one to two seconds of torch's
BROKEN = (
    OSError, EOFError, LookupError, MemoryError, OverflowError, RuntimeError, ValueError, struct.error,
    zipfile.BadZipFile,
)  # fmt: skip
CODES = {code.code: code for code in pickletools.opcodes}
Pickled = IO[bytes] | BufferedIOBase
ZIP = b"PK\x03\x04"
PICKLES = 5  # of which a file of before torch 1.6 consists, ahead of its numbers


def check_texts(path: Path) -> None:
    """Refuses a file of `torch.save` with a text of very many signs and no space; nothing of it is run.

    What it does not expect `torch.load(weights_only=True)` quotes, and looks through the quotation by
    patterns whose time grows with the square of its length: an hour for half a million signs. What is wrong
    with other files, and with damaged ones, is left to their reader.

    Raises:
        UserError: there is such a text.
    """
    for held in texts(path):
        if len(held) > LONGEST and max(map(len, held.split()), default=0) > LONGEST:
            raise UserError(
                f"{path}: refused, it holds a text of {len(held)} signs, {held[:20]!r}...; allowed are "
                f"{LONGEST} without a space; save the weights alone, or take them as safetensors"
            )


def texts(path: Path) -> Iterator[str | bytes]:
    """All texts of a file's pickles, as far as they can be read: names, keys, values."""
    with suppress(*BROKEN):
        for file in pickles(path):
            yield from filter(is_text, arguments(file))


def is_text(held: object) -> TypeGuard[str | bytes]:
    """Whether torch could quote it."""
    return isinstance(held, str | bytes)


def arguments(file: Pickled) -> Iterator[object]:
    """What the codes of a pickle hold, to its end; names of types as they stand: `genops` unescapes them."""
    while (code := CODES[file.read(1).decode("latin-1")]).name != "STOP":
        if code.name == "GLOBAL":
            yield file.readline() + file.readline()
        elif code.arg is not None:
            yield code.arg.reader(file)  # type: ignore[arg-type]  # it takes all that can be read from


def pickles(path: Path) -> Iterator[Pickled]:
    """The file's pickles, each to be read to its end before the next; a ZIP is told as torch tells it."""
    with path.open("rb") as file:
        if file.read(len(ZIP)) != ZIP:
            file.seek(0)
            yield from [file] * PICKLES
            return
        with zipfile.ZipFile(file) as archive:
            for member in archive.infolist():  # also two of one name
                if member.filename.rpartition("/")[2] == "data.pkl":
                    with archive.open(member) as pickled:
                        yield pickled
