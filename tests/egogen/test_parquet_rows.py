"""Parquet files of strangers: rows come as they are; damage, lists and bombs are one line each.

Witness: pyarrow's own reading of whole files.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from egogen.errors import UserError
from egogen.prepare.formats import parquet_rows
from egogen.prepare.formats.card import write_card
from egogen.prepare.formats.hub import unpack_table
from egogen.prepare.formats.image_table import read_rows
from egogen.prepare.formats.parquet_rows import rows_of, schema_of

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
COLUMNS = {"input_image": IMAGE, "edited_image": IMAGE, "clip_id": pa.string(), "edit_prompt": pa.string()}
NAME = "data/ego4d-val-00000-of-00001.parquet"


def write(path: Path, columns: dict[str, pa.DataType], rows: list[dict[str, object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    facts = {"egogen": json.dumps({"dataset": "ego4d", "split": "val"})}
    schema = pa.schema(list(columns.items()), metadata=facts)
    pq.write_table(pa.Table.from_pylist(rows, schema), path, row_group_size=4)
    return path


def exported(folder: Path, **changes: object) -> Path:
    """As `to-parquet` writes it, but for the last row's changes."""
    rows: list[dict[str, object]] = [
        {
            "input_image": {"bytes": b"%d" % number, "path": f"a/{number}.jpg"},
            "edited_image": {"bytes": b"same", "path": "a/same.jpg"},
            "clip_id": f"clip-{number // 3}",
            "edit_prompt": None,
        }
        for number in range(10)
    ]
    rows[-1] |= changes
    return write(folder / NAME, COLUMNS, rows)


def test_rows_are_as_pyarrow_reads_them(tmp_path: Path) -> None:
    path = exported(tmp_path)
    assert [*rows_of(path)] == pq.read_table(path).to_pylist()
    wanted = ["clip_id", "input_image.path"]
    assert [*rows_of(path, wanted)] == pq.ParquetFile(path).read(wanted).to_pylist()
    assert schema_of(path).names == [*COLUMNS]


@contextmanager
def raises_one_line(path: Path) -> Iterator[None]:
    """What is raised names the file, in one line."""
    try:
        yield
    except UserError as error:
        told = f"{error}"
    else:
        return
    assert re.search(rf"{path.name}: .", told)
    assert "\n" not in told
    raise UserError(told)


READERS: dict[str, Callable[[Path], object]] = {
    "from-hf": lambda path: unpack_table(path, path.parents[1] / "out"),
    "the card": lambda path: write_card(path.parents[1]),
    "a table": lambda path: [*read_rows(path)],
}


@pytest.mark.parametrize("reader", READERS)
def test_damage_is_one_line(reader: str, tmp_path: Path) -> None:
    """Cut off, or with other bytes in places drawn at random, among them names that are no UTF-8."""
    read, path = READERS[reader], exported(tmp_path)
    content, chance, refused = path.read_bytes(), random.Random(7), 0
    for number in range(60):
        changed = bytearray(content[: chance.randrange(len(content))] if number < 20 else content)
        for _ in range(0 if number < 20 else 3):
            changed[-1 - chance.randrange(1500)] = chance.randrange(256)
        path.write_bytes(changed)
        with suppress(UserError), raises_one_line(path):
            read(path)
            continue
        refused += 1
    assert refused > 20


def test_bombs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A text of a megabyte, of which the file holds one and its rows ten thousand."""
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * 10_000, pa.int32()), pa.array(["x" * 1_000_000]))
    pq.write_table(pa.table({"action": texts}), tmp_path / "x.parquet")
    assert (tmp_path / "x.parquet").stat().st_size < 200_000
    monkeypatch.setattr(parquet_rows, "SMALL_BYTES", 10_000_000)
    with pytest.raises(UserError, match=r"x\.parquet: its rows are more than .* refused, as bombs are"):
        next(rows_of(tmp_path / "x.parquet"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input_image": None}, r"row \d+: an image is None; expected bytes and path of each"),
        ({"input_image": {"bytes": None, "path": "x.jpg"}}, "an image is .*'bytes': None"),
        ({"input_image": {"bytes": b"x", "path": None}}, "an image is .*'path': None"),
        ({"edited_image": {"bytes": b"x", "path": "/etc/x"}}, "'/etc/x' is an absolute path"),
    ],
)
def test_images_that_are_none(changes: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"of-00001\.parquet: .*{message}"):
        unpack_table(exported(tmp_path, **changes), tmp_path / "out")


def test_columns_that_are_not_there_or_hold_lists(tmp_path: Path) -> None:
    path = write(tmp_path / NAME, {"clip_id": pa.string()}, [{"clip_id": "a"}])
    with pytest.raises(UserError, match=r"has no column 'input_image'; it has \['clip_id'\]"):
        unpack_table(path, tmp_path / "out")
    with pytest.raises(UserError, match=r"has no column 'input_image\.path'"):
        write_card(tmp_path)
    texts = pa.list_(pa.string())
    inner = pa.struct([("deeper", pa.struct([("texts", texts)]))])
    for kind, value in ((texts, ["a"]), (inner, {"deeper": {"texts": ["a"]}})):
        path = write(tmp_path / "x.parquet", {"action": kind}, [{"action": value}])
        with pytest.raises(UserError, match=r"x\.parquet: column 'action' holds .*list<.*allowed are texts"):
            [*read_rows(path)]
