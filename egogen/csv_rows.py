"""Reads tables that people and spreadsheets write as CSV: by the names of their columns, faults named."""

from __future__ import annotations

import csv
import io
import re
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from egogen.errors import UserError, reason
from egogen.files import regular
from egogen.unfetched import check_fetched

SEPARATORS = ",;\t"
EXCELS = re.compile('"?sep=([^"\r])"?\r?')  # a first line that tells Excel the separator


def read_csv(path: Path) -> tuple[list[str], Iterator[tuple[int, dict[str, str]]]]:
    """The names of a table's columns, and its rows with the numbers of the lines that they begin on.

    The text is UTF-8, or UTF-16 with its mark; fields are separated by commas, semicolons or tabs, whichever
    the first line has most of, or as Excel states above it (`sep=;`). Blanks around names count for nothing,
    and where names have some after the separator, fields may too. Fields that a short row lacks are absent;
    empty rows are left out.

    Raises:
        UserError: it cannot be read, or is no such table; a column has no name or the name of another; when
            rows are read, one has more fields than there are names.
    """
    text = read_text(path)
    head, _, below = text.partition("\n")
    stated = EXCELS.fullmatch(head)
    above = 1 if stated else 0  # lines before the names
    if stated:
        text, head = below, below.partition("\n")[0]
    separator = stated[1] if stated else max(SEPARATORS, key=head.count)
    spaced = f"{separator} " in head
    lines = csv.reader(
        io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=spaced, strict=True
    )

    def rows() -> Iterator[tuple[int, dict[str, str]]]:
        with named_faults():
            ended = above + lines.line_num
            for fields in lines:
                line, ended = ended + 1, above + lines.line_num
                if len(fields) > len(names):
                    raise UserError(f"{path}: line {line} has more fields than the first line has names")
                if any(field.strip() for field in fields):
                    yield line, dict(zip(names, fields, strict=False))

    @contextmanager
    def named_faults() -> Iterator[None]:
        try:
            yield
        except csv.Error as error:
            place = above + lines.line_num
            raise UserError(f"{path}: not a CSV file ({error}, about line {place})") from None

    with named_faults():
        names = [name.strip() for name in next(lines, [])]
    check_names(names, f"{path}: the first line")
    return names, rows()


def read_text(path: Path) -> str:
    """The text of a file in UTF-8, or in UTF-16 with its mark.

    Raises:
        UserError: it cannot be read, is in neither, or was not fetched.
    """
    try:
        content = regular(path).read_bytes()
        check_fetched(path, content)
        return content.decode("utf-16" if content.startswith((BOM_UTF16_BE, BOM_UTF16_LE)) else "utf-8-sig")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({reason(error)})") from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: not UTF-8 text ({error.reason} at byte {error.start}); save it as that"
        ) from None


def check_names(names: Sequence[str], where: str) -> None:
    """Refuses columns of one name, of which one would be lost, and columns without any.

    Raises:
        UserError: names the first.
    """
    for place, name in enumerate(names):
        if not name.strip():
            raise UserError(f"{where} has no name for column {place + 1}; give it one, or remove the column")
        if name in names[:place]:
            raise UserError(f"{where} has the column {name!r} twice; each may occur once")


def told(names: Iterable[str]) -> str:
    """The names of columns, so that blanks in them are seen."""
    return ", ".join(map(repr, names)) or "none"
