"""What texts that stay in their files hold in memory: traced bytes, against those of texts that are read."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from unittest import mock

from egogen import json_stream, stored_items
from egogen.annotations import Annotations
from llava.describing.given_texts import read_texts
from llava.describing.merging import join, merge
from tests.llava.test_kept_texts import edits, shards

COUNT = 2000


def test_a_description_takes_a_small_part_of_the_memory(tmp_path: Path) -> None:
    """Also where each shard has one clip: nothing of it stays because it was the last."""
    found = edits(tmp_path, 10, COUNT // 10)
    paths = []
    for number, clip in enumerate(found.clips[1:]):
        part = Annotations({clip: found.raw[clip]}, found.source)
        paths += [path.rename(tmp_path / f"{number}.json") for path in shards(part, tmp_path, 1)]
    with mock.patch.object(json_stream, "BLOCK", 1 << 13):
        tracemalloc.start()
        try:
            joined = join(paths)
            assert sum(1 for _ in merge(found, joined, tmp_path)) == COUNT
            held, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert held < COUNT * 200  # bytes, with what ten files take
    assert len(joined) == COUNT


def test_given_texts_stay_in_a_large_file(tmp_path: Path) -> None:
    found = edits(tmp_path, 20, COUNT // 20)
    (path,) = shards(found, tmp_path, 1)

    def held(large: int) -> int:
        with (
            mock.patch.object(json_stream, "BLOCK", 1 << 13),
            mock.patch.object(stored_items, "LARGE", large),
        ):
            tracemalloc.start()
            try:
                texts = read_texts(path, found.items, found.source)
                assert len(texts) == COUNT
                return tracemalloc.get_traced_memory()[0]
            finally:
                tracemalloc.stop()

    size = path.stat().st_size
    assert held(size - 1) < COUNT * 60
    assert held(size) > COUNT * 300
