"""Long texts in the pickles of weight files, over which torch's safe reading would stand for hours."""

from __future__ import annotations

import pickletools
import struct
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO

from egogen.errors import UserError

LONGEST = 10_000  # signs without a space; one to two seconds of torch's
BROKEN = (
    OSError, EOFError, LookupError, MemoryError, OverflowError, RuntimeError, ValueError, struct.error,
    zipfile.BadZipFile,
)  # fmt: skip
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
                f"{LONGEST} without a space"
            )


def texts(path: Path) -> Iterator[str | bytes]:
    """All texts of a file's pickles, as far as they can be read: names, keys, values."""
    with suppress(*BROKEN):
        for file in pickles(path):
            for _, held, _ in pickletools.genops(file):
                if isinstance(held, str | bytes):
                    yield held


def pickles(path: Path) -> Iterator[IO[bytes]]:
    """The file's pickles, each to be read to its end before the next."""
    with path.open("rb") as file:
        if not zipfile.is_zipfile(file):
            file.seek(0)
            yield from [file] * PICKLES
            return
        with zipfile.ZipFile(file) as archive:
            for name in archive.namelist():
                if name.rpartition("/")[2] == "data.pkl":
                    with archive.open(name) as pickled:
                        yield pickled
