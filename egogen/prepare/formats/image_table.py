"""Anybody's own images: a table that names the image before an action, the image of it, and the action.

Columns image_0, image_1 (paths relative to the table) and action; clip, id, split and description if wanted;
further columns are kept in the annotations.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TypeAlias, cast, get_args

from egogen.cli import flag
from egogen.errors import UserError
from egogen.layout import DESCRIPTION_KEY, FOLDERS, Layout, Split
from egogen.manifest import file_hash
from egogen.prepare.frames.stills import ImageFiles
from egogen.prepare.options import PrepareOptions, read
from egogen.prepare.pair_plan import ActionPair, Moment, PairPlan
from egogen.prepare.run import Preparation, carry_out

NEEDED = ("image_0", "image_1", "action")
KNOWN = (*NEEDED, "clip", "id", "split")
Row: TypeAlias = Mapping[str, object]
# Rows that one process works on.
ROWS = 256


@dataclass(frozen=True)
class FolderOptions(PrepareOptions):
    """Which table, and where its pairs go."""

    pairs: Path = flag("a .csv, .jsonl or .parquet table", type=Path, required=True, metavar="FILE")
    split: Split = flag("of rows that name none", choices=get_args(Split), default="train")
    dataset: str = flag(
        "whose place to take: epickitchen for plain labels, ego4d for such as '#C C cuts the carrot'",
        choices=list(FOLDERS), default="epickitchen",
    )  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    """Reads the table, then copies and scales."""
    options = read(FolderOptions, argv, "folder", __doc__)
    plan = make_plan(options.pairs, list(read_rows(options.pairs)), options.split)
    splits: list[Split] = [
        split for split in get_args(Split) if any(pair.split == split for pair in plan.pairs)
    ]
    settings = {"source": "images", "annotations": file_hash(options.pairs), **options.settings()}
    carry_out(plan, Preparation(Layout(options.out, options.dataset), splits, settings, options))


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of a table, without empty fields.

    Raises:
        UserError: it cannot be read, is of another kind, or a row lacks a column.
    """
    readers = {".csv": read_csv, ".jsonl": read_jsonl, ".parquet": read_parquet}
    if path.suffix.lower() not in readers:
        raise UserError(f"{path}: expected a table that ends with {', '.join(readers)}")
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    for number, row in enumerate(readers[path.suffix.lower()](path), start=1):
        filled = {name: value for name, value in row.items() if value is not None and str(value).strip()}
        lacking = [name for name in NEEDED if not isinstance(filled.get(name), str)]
        if lacking:
            raise UserError(
                f"{path}: row {number} has no text in {', '.join(lacking)}; it has {', '.join(filled)}"
            )
        yield filled


def read_csv(path: Path) -> Iterator[Row]:
    """Rows of a CSV file."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file, strict=True)
        try:
            for row in rows:
                if None in row:
                    raise UserError(
                        f"{path}: line {rows.line_num} has more fields than the first line has names"
                    )
                yield row
        except (csv.Error, UnicodeDecodeError) as error:
            raise UserError(f"{path}: not a CSV file in UTF-8 ({error})") from None


def read_jsonl(path: Path) -> Iterator[Row]:
    """Rows of a file with a JSON object on each line."""
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(f"{path}: line {number} is not JSON ({error})") from None
        if not isinstance(row, dict):
            raise UserError(f"{path}: line {number}: found {type(row).__name__}, expected an object")
        yield row


def read_parquet(path: Path) -> Iterator[Row]:
    """Rows of a Parquet file."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        for batch in parquet.ParquetFile(path).iter_batches():
            yield from batch.to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: not a Parquet file ({error})") from None


def make_plan(path: Path, rows: Sequence[Row], split: Split) -> PairPlan:
    """Decides on every row of the table.

    Raises:
        UserError: there is none, or one holds what its column cannot.
    """
    if not rows:
        raise UserError(f"{path}: holds no rows; nothing to do")
    images = [(path.parent / str(row["image_0"]), path.parent / str(row["image_1"])) for row in rows]
    sources = [
        ImageFiles(f"{path.stem}-{first}", tuple(chain.from_iterable(images[first : first + ROWS])))
        for first in range(0, len(rows), ROWS)
    ]
    given = {(str(row["clip"]), str(row["id"])) for row in rows if "clip" in row and "id" in row}
    plan, counts, splits = PairPlan(), Counter[str](), dict[str, Split]()
    for index, (row, files) in enumerate(zip(rows, images, strict=True)):
        where = f"{path}: row {index + 1}"
        clip = str(row.get("clip", f"{path.stem}_{index:06d}"))
        while "id" not in row and (clip, str(counts[clip])) in given:
            counts[clip] += 1
        found = split_of(row, split, where)
        if splits.setdefault(clip, found) != found:
            raise UserError(f"{where}: clip {clip!r} is in the split {splits[clip]!r} too; keep it in one")
        place = 2 * (index % ROWS)
        pair = ActionPair(
            clip=clip,
            id=str(row.get("id", counts[clip])),
            split=found,
            text=str(row["action"]),
            source=sources[index // ROWS],
            moments=(Moment(0, place), Moment(1, place + 1)),
            files=files,
            extra=extra(row, where),
        )
        counts[clip] += 1
        plan.add(pair)
    return plan


def split_of(row: Row, default: Split, where: str) -> Split:
    """The split of a row; raises `UserError` if it names one that there is not."""
    found = row.get("split", default)
    if found not in get_args(Split):
        raise UserError(f"{where}: split {found!r}; allowed are {', '.join(get_args(Split))}")
    return cast("Split", found)


def extra(row: Row, where: str) -> dict[str, object]:
    """The columns that annotations keep; `description` becomes the description that stage 2 reads.

    Raises:
        UserError: one of them is neither text nor a number.
    """
    found = {
        DESCRIPTION_KEY if name == "description" else name: row[name] for name in row if name not in KNOWN
    }
    for name, value in found.items():
        if not isinstance(value, (str, int, float)):
            raise UserError(
                f"{where}: column {name!r} holds {type(value).__name__}; allowed are text and numbers"
            )
    return found
