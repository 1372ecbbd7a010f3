"""Writes a split as Parquet with the images inside, as Hugging Face's `datasets` and diffusers read it.

Columns: `input_image`, `edit_prompt`, `edited_image` (what diffusers' InstructPix2Pix training expects),
`clip_id`, `action_id`, `action`, `description`. Several splits may go to one folder; README.md is their card.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from egogen.annotations import Item
from egogen.errors import UserError
from egogen.files import atomic_open
from egogen.layout import DESCRIPTION_KEY, Layout
from egogen.prepare.formats.card import COLUMNS, IMAGES, write_card
from egogen.prepare.formats.export import ExportSplit, describe
from egogen.prepare.options import PROMPTS, ParquetOptions
from egogen.progress import Progress

log = logging.getLogger(__name__)

TEXTS = [column for column in COLUMNS if column not in IMAGES]
# Rows that are in memory at a time, and that a reader has to load to see one.
ROW_GROUP = 100


def prepare(options: ParquetOptions) -> None:
    """Writes the Parquet files, the JSON files beside them and the card; finished files are kept."""
    source = ExportSplit(options)
    prompt = choose_prompt(source, options.prompt)
    source.claim(format="parquet", prompt=prompt)
    count = len(source.shards)
    for number, items in enumerate(Progress(source.shards, unit="shard")):
        # Named as on the hub.
        path = options.out / "data" / f"{source.name}-{number:05d}-of-{count:05d}.parquet"
        if not has_rows(path, len(items)):
            write_shard(path, items, source, PROMPTS[prompt])
    copy_texts(source, Layout(options.out, options.dataset))
    write_card(options.out)
    log.info(
        "%d samples in %d files, edit_prompt is the %s: %s",
        *(len(source.annotations), count, prompt, options.out),
    )


def choose_prompt(source: ExportSplit, wanted: str | None) -> str:
    """Which text is the prompt, for all samples alike.

    Raises:
        UserError: an action lacks the text asked for.
    """
    items = source.annotations.items
    lacking = [item for item in items if not item.action.text(DESCRIPTION_KEY)]
    if wanted == "description" and lacking:
        raise UserError(
            f"{source.annotations.source}: {len(lacking)} of {len(items)} actions have no {DESCRIPTION_KEY}, "
            f"the first is {lacking[0].id!r} of clip {lacking[0].clip!r}; give what llava.merge wrote as "
            "--annotations, or choose --prompt action"
        )
    return wanted or ("action" if lacking else "description")


def schema(source: ExportSplit) -> pa.Schema:
    """The columns; `datasets` learns from the metadata which are images, `from-hf` which split it is."""
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    text = {"dtype": "string", "_type": "Value"}
    features = {name: {"_type": "Image"} if name in IMAGES else text for name in COLUMNS}
    metadata = {
        "huggingface": json.dumps({"info": {"features": features}}),
        "egogen": json.dumps({"dataset": source.layout.dataset, "split": source.options.split}),
    }
    return pa.schema(
        [(name, image if name in IMAGES else pa.string()) for name in COLUMNS], metadata=metadata
    )


def has_rows(path: Path, count: int) -> bool:
    """Whether a Parquet file is there with so many rows, by its footer; a damaged one gets a warning."""
    if not path.exists():
        return False
    try:
        found = pq.read_metadata(path).num_rows
    except (pa.ArrowException, OSError):
        found = 0
    if found != count:
        log.warning("%s: damaged; it is written anew", path)
    return bool(found == count)


def write_shard(path: Path, items: Sequence[Item], source: ExportSplit, prompt_key: str) -> None:
    """Writes one Parquet file, a row group at a time."""
    columns = schema(source)
    with (
        atomic_open(path) as file,
        pq.ParquetWriter(file, columns, use_dictionary=TEXTS, write_page_index=True) as writer,
    ):
        for first in range(0, len(items), ROW_GROUP):
            rows = [
                {
                    # Files as they are, under the names that annotations use.
                    column: {"bytes": source.frame(name), "path": name}
                    for column, name in zip(IMAGES, (item.action.image_0, item.action.image_1), strict=True)
                }
                | {"edit_prompt": item.action.text(prompt_key), **describe(item)}
                for item in items[first : first + ROW_GROUP]
            ]
            writer.write_table(pa.Table.from_pylist(rows, columns))


def copy_texts(source: ExportSplit, layout: Layout) -> None:
    """Copies annotations, metadata and conversations, so that `from-hf` gives the same data set back."""
    files = {source.annotations.source: layout.annotations(source.options.split)}
    files[source.layout.metadata] = layout.metadata
    if source.options.split == "train":
        files[source.layout.conversations] = layout.conversations
    for origin, copy in files.items():
        if origin.exists():
            with atomic_open(copy) as file:
                file.write(origin.read_bytes())
