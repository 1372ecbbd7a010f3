"""Writes a split as WebDataset tar files: `key.input.jpg`, `key.target.jpg`, `key.json`.

The same input gives the same bytes. `<dataset>-<split>.index.json` lists the files, their samples and sums;
README.md is the card of all splits in the folder. Stage 2 trains from them by `data.webdataset=DIR`.
"""

from __future__ import annotations

import json
import logging
import tarfile
from collections.abc import Sequence
from pathlib import Path

from egogen.annotations import Item
from egogen.files import atomic_open, write_json
from egogen.frames import add_bytes, has_members
from egogen.layout import sample_index
from egogen.manifest import file_hash
from egogen.prepare.formats.card import write_card
from egogen.prepare.formats.export import ExportSplit, describe
from egogen.prepare.options import ExportOptions
from egogen.progress import Progress
from egogen.sample_shards import FACTS, FILES, frame_member, frames_of

log = logging.getLogger(__name__)


def prepare(options: ExportOptions) -> None:
    """Writes the tar files; finished ones are kept."""
    source = ExportSplit(options)
    source.claim(format="webdataset")
    shards = []
    for number, items in enumerate(Progress(source.shards, unit="shard")):
        path = options.out / f"{source.name}-{number:06d}.tar"
        if not has_members(path, FILES * len(items)):
            write_shard(path, items, source, number * options.samples_per_shard)
        size = path.stat().st_size
        shards.append({"file": path.name, "samples": len(items), "bytes": size, "sha256": file_hash(path)})
    samples = len(source.annotations)
    index = {"dataset": options.dataset, "split": options.split, "samples": samples, "shards": shards}
    write_json(sample_index(options.out, options.dataset, options.split), index)
    write_card(options.out)
    log.info("%d samples in %d tar files: %s", samples, len(shards), options.out)


def write_shard(path: Path, items: Sequence[Item], source: ExportSplit, first: int) -> None:
    """Writes one tar file; keys are counted from `first`, the place of its first action in the split."""
    with atomic_open(path) as file, tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for place, item in enumerate(items, first):
            # A key has no dot: readers cut a name at the first one. Ids may have dots, numbers have none.
            key = f"{place:09d}"
            for role, name in frames_of(item.action).items():
                add_bytes(tar, frame_member(key, role, name), source.frame(name))
            own = {name: value for name, value in item.action.entry.items() if value is not None}
            facts = {**own, **describe(item)}
            add_bytes(tar, f"{key}{FACTS}", json.dumps(facts).encode())
