"""Rows of Parquet files, a few at a time: damage is one line, as are rows that outweigh their file by far."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from egogen.disk import readable
from egogen.errors import UserError, reason, shorten
from egogen.files import regular
from egogen.unfetched import check_stands

# What pyarrow raises for damaged bytes: names and texts may be no UTF-8, types others than are stated.
BROKEN = (pa.ArrowException, OSError, KeyError, TypeError, ValueError, MemoryError, OverflowError)
# Rows may repeat a value that the file holds once: they may be so many bytes, or so many times its size.
SMALL_BYTES = 1 << 30
MAX_RATIO = 100
# At a time. Values that are repeated are read as dictionaries, which hold them once; not so within images.
ROWS, ROWS_OF_IMAGES = 1000, 16


@contextmanager
def guarded(path: Path) -> Iterator[None]:
    """What pyarrow raises in the block becomes one line.

    Raises:
        UserError: the file is damaged, or none of Parquet's.
    """
    try:
        yield
    except UserError:
        raise
    except BROKEN as error:
        check_stands(path)
        raise UserError(
            f"{path}: not a readable Parquet file ({reason(error)[:160]}); is it cut off?"
        ) from None


def schema_of(path: Path) -> pa.Schema:
    """The columns of a file, and what it says of them; raises as `guarded`."""
    with guarded(path), pq.ParquetFile(regular(path)) as file:
        return file.schema_arrow


def rows_of(path: Path, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """The rows of a file, in its order.

    Args:
        path: the file.
        columns: those that are wanted; `a.b` is a part of one.

    Raises:
        UserError: it is damaged, lacks a column or has lists in one, or its rows are far more than it weighs;
            also while they are read.
    """
    with guarded(path):
        with pq.ParquetFile(regular(path)) as file:
            parts = [file.schema.column(index).path for index in range(len(file.schema))]
            check_columns(path, file.schema_arrow, parts, columns or ())
        size, unpacked = path.stat().st_size, 0
        allowed = max(SMALL_BYTES, MAX_RATIO * size)
        plain = [part for part in parts if "." not in part]
        with pq.ParquetFile(path, read_dictionary=plain) as file:
            for batch in file.iter_batches(ROWS if plain == parts else ROWS_OF_IMAGES, columns=columns):
                unpacked += sum(map(unpacked_size, batch.columns))
                if unpacked > allowed:
                    raise UserError(
                        f"{path}: its rows are more than {readable(allowed)}, in a file of {readable(size)}; "
                        f"refused, as bombs are (allowed is {MAX_RATIO} times its size)"
                    )
                yield from batch.to_pylist()


def check_columns(path: Path, schema: pa.Schema, parts: Sequence[str], wanted: Sequence[str]) -> None:
    """Raises a `UserError` unless all that are wanted are there and none holds lists."""
    for name in wanted:
        if not any(f"{part}.".startswith(f"{name}.") for part in parts):
            raise UserError(f"{path}: has no column {name!r}; it has {shorten(schema.names, 200)}")
    for field in schema:
        if holds_lists(field.type):
            raise UserError(
                f"{path}: column {field.name!r} holds {field.type}; allowed are texts, numbers and images"
            )


def holds_lists(kind: pa.DataType) -> bool:
    """Whether values of a type hold lists, maps or others that say their own length, at any depth."""
    if pa.types.is_struct(kind):
        return any(holds_lists(part.type) for part in kind)
    return bool(pa.types.is_nested(kind))


def unpacked_size(column: pa.Array) -> int:
    """Bytes of a column with every value written out."""
    if pa.types.is_struct(column.type):
        return sum(map(unpacked_size, column.flatten()))
    if pa.types.is_dictionary(column.type):
        return pc.sum(pc.binary_length(column.dictionary).take(column.indices)).as_py() or 0
    return int(column.nbytes)
