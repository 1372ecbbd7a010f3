"""Anybody's own images: a table that names the image before an action, the image of it, and the action.

Columns image_0, image_1 (paths relative to the table) and action; clip, id, split and description if wanted;
further columns are kept in the annotations.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TypeAlias, cast, get_args

from egogen.annotations import check_object
from egogen.csv_rows import check_names, read_csv, read_text, told
from egogen.errors import UserError
from egogen.files import parse_json
from egogen.layout import DESCRIPTION_KEY, Layout, Split, expanded, is_possible
from egogen.manifest import file_hash
from egogen.prepare.frames.stills import ImageFiles
from egogen.prepare.options import FolderOptions
from egogen.prepare.pair_plan import ActionPair, Moment, PairPlan
from egogen.prepare.run import Preparation, carry_out
from egogen.seeds import item_seed

NEEDED = ("image_0", "image_1", "action")
KNOWN = (*NEEDED, "clip", "id", "split")
Row: TypeAlias = Mapping[str, object]
log = logging.getLogger(__name__)
# Rows that one process works on.
ROWS = 256


def prepare(options: FolderOptions) -> None:
    """Reads the table, then copies and scales."""
    plan = read_plan(options)
    splits: list[Split] = [
        split for split in get_args(Split) if any(pair.split == split for pair in plan.pairs)
    ]
    settings = {"source": "images", "annotations": file_hash(options.pairs), **options.settings()}
    settings |= {} if options.val_share is None else {"val_share": options.val_share}
    layout = Layout(options.out, options.dataset)
    carry_out(plan, Preparation(layout, splits, settings, options))
    if "val" not in splits and not layout.annotations("val").exists():
        log.warning(
            "%s: names no val split, all pairs are train; stage 2 needs one to train: give rows the column "
            "split, or --val-share 0.1",
            options.pairs,
        )


def read_plan(options: FolderOptions) -> PairPlan:
    """The plan of the table; its rows go."""
    found = list(read_rows(options.pairs))
    rows = share_out(options.pairs, [row for _, row in found], options.val_share)
    return make_plan(options.pairs, [place for place, _ in found], rows, options.split)


def read_rows(path: Path) -> Iterator[tuple[str, Row]]:
    """The rows of a table, without empty fields, and where each is: `line 5`, `row 3`.

    Raises:
        UserError: it cannot be read, is of another kind, or a row lacks a column.
    """
    readers = {".csv": csv_rows, ".jsonl": read_jsonl, ".parquet": read_parquet}
    if path.suffix.lower() not in readers:
        raise UserError(f"{path}: expected a table that ends with {', '.join(readers)}")
    if not path.exists():
        raise UserError(f"{path}: no such file")
    for place, row in readers[path.suffix.lower()](path):
        filled = {name: value for name, value in row.items() if value is not None and str(value).strip()}
        lacking = [name for name in NEEDED if not isinstance(filled.get(name), str)]
        if lacking:
            raise UserError(f"{path}: {place} has no text in {', '.join(lacking)}; it has {told(filled)}")
        yield place, filled


def csv_rows(path: Path) -> Iterator[tuple[str, Row]]:
    """Rows of a CSV file, and the line that each begins on."""
    return ((f"line {line}", row) for line, row in read_csv(path)[1])


def read_jsonl(path: Path) -> Iterator[tuple[str, Row]]:
    """Rows of a file with a JSON object on each line, and that line."""
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            where = f"{path}: line {number}"
            yield f"line {number}", check_object(parse_json(line, where), where, "columns by name")


def read_parquet(path: Path) -> Iterator[tuple[str, Row]]:
    """Rows of a Parquet file, counted from 1, as it has no lines."""
    from egogen.prepare.formats.parquet_rows import rows_of, schema_of

    check_names(schema_of(path).names, f"{path}")
    yield from ((f"row {number}", row) for number, row in enumerate(rows_of(path), start=1))


def share_out(path: Path, rows: Sequence[Row], share: float | None) -> Sequence[Row]:
    """Gives whole clips to val until they are the share of those whose rows name no split; at least one.

    Which ones depends on their names alone, not on the order of rows.
    """
    if share is None:
        return rows
    free = {clip_of(path, row, index) for index, row in enumerate(rows)}
    free -= {clip_of(path, row, index) for index, row in enumerate(rows) if "split" in row}
    drawn = set(sorted(free, key=lambda clip: item_seed(0, clip))[: max(1, round(share * len(free)))])
    made = []
    for index, row in enumerate(rows):
        clip = clip_of(path, row, index)
        made.append({**row, "split": "val" if clip in drawn else "train"} if clip in free else row)
    return made


def clip_of(path: Path, row: Row, index: int) -> str:
    """The clip of a row: the one it names, or one of its own."""
    return str(row.get("clip", f"{path.stem}_{index:06d}"))


def make_plan(path: Path, places: Sequence[str], rows: Sequence[Row], split: Split) -> PairPlan:
    """Decides on every row of the table.

    Args:
        path: the table.
        places: where each row is.
        rows: as `read_rows` gives them, their splits chosen.
        split: of rows that name none.

    Raises:
        UserError: there is none, or one holds what its column cannot.
    """
    if not rows:
        raise UserError(f"{path}: holds no rows; nothing to do")
    images = [image_paths(path, row) for row in rows]
    if same := sum(first == second for first, second in images):
        log.warning("%s: %d of %d rows have one image as input and target", path, same, len(rows))
    sources = [
        ImageFiles(f"{path.stem}-{first}", tuple(chain.from_iterable(images[first : first + ROWS])))
        for first in range(0, len(rows), ROWS)
    ]
    given = {(str(row["clip"]), str(row["id"])) for row in rows if "clip" in row and "id" in row}
    plan, counts, splits = PairPlan(), Counter[str](), dict[str, Split]()
    for index, (place, row, files) in enumerate(zip(places, rows, images, strict=True)):
        where = f"{path}: {place}"
        clip = clip_of(path, row, index)
        while "id" not in row and (clip, str(counts[clip])) in given:
            counts[clip] += 1
        found = split_of(row, split, where)
        if splits.setdefault(clip, found) != found:
            raise UserError(f"{where}: clip {clip!r} is in the split {splits[clip]!r} too; keep it in one")
        first = 2 * (index % ROWS)
        pair = ActionPair(
            clip=clip,
            id=str(row.get("id", counts[clip])),
            split=found,
            text=str(row["action"]),
            source=sources[index // ROWS],
            moments=(Moment(0, first), Moment(1, first + 1)),
            files=files,
            extra=extra(row, where),
        )
        counts[clip] += 1
        plan.add(pair)
    return plan


def image_paths(path: Path, row: Row) -> tuple[Path, Path]:
    """Where a row's images are, relative to the table; `~` is a home folder.

    A name that no file can have is that of a missing one.
    """
    first, second = (Path(str(row[name])) for name in ("image_0", "image_1"))
    return place(path, first), place(path, second)


def place(table: Path, image: Path) -> Path:
    """Where an image of a table is."""
    return table.parent / (expanded(image) if is_possible(image) else image)


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
