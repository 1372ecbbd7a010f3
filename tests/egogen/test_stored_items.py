"""Items that stay in their file: witness is the same file read into memory."""

from __future__ import annotations

import json
import os
import pickle
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from egogen import json_stream, stored_items
from egogen.annotations import Annotations, Item
from egogen.errors import UserError
from egogen.stored_items import ItemStore, StoredItems, choose

ENTRY = {"image_0": "c/a/0.jpg", "image_1": "c/a/1.jpg", "action": "#C C picks up the cup"}
# Signs that mean something in JSON, outside of texts.
SIGNS = st.text(st.sampled_from('{}[]:,"\\ aé\u4e2d\U0001f600\n'), max_size=8)
EXTRA = st.dictionaries(
    SIGNS.filter(lambda key: key not in ENTRY),
    SIGNS | st.lists(SIGNS | st.dictionaries(SIGNS, SIGNS, max_size=2), max_size=2) | st.floats(0, 1),
    max_size=2,
)
CONTENT = st.dictionaries(SIGNS, st.dictionaries(SIGNS, EXTRA, max_size=4), min_size=1, max_size=4)


@contextmanager
def stored(**changes: int) -> Iterator[None]:
    """Takes every file for a large one."""
    with mock.patch.multiple(stored_items, LARGE=-1, **changes):
        yield


def write(folder: Path, clips: dict[str, Any]) -> Path:
    path = folder / "ego4d_val.json"
    path.write_text(json.dumps(clips, indent=4))
    return path


def world(clips: int, actions: int) -> dict[str, Any]:
    return {
        f"c{clip}": {f"{number}": {**ENTRY, "image_0": f"{clip}/{number}.jpg"} for number in range(actions)}
        for clip in range(clips)
    }


def read_stored(path: Path, **changes: int) -> StoredItems[Item]:
    with stored(**changes):
        items = Annotations.read(path).items
    assert isinstance(items, StoredItems)
    return items


@settings(deadline=None, max_examples=150)
@given(
    content=CONTENT,
    block=st.integers(1, 60),
    at_once=st.integers(1, 3),
    indent=st.sampled_from([None, 0, 4]),
    escaped=st.booleans(),
    marked=st.booleans(),
)
def test_items_are_those_of_a_list(
    tmp_path_factory: pytest.TempPathFactory,
    content: dict[str, Any],
    block: int,
    at_once: int,
    indent: int | None,
    escaped: bool,
    marked: bool,
) -> None:
    raw = {clip: {key: ENTRY | extra for key, extra in actions.items()} for clip, actions in content.items()}
    path = tmp_path_factory.mktemp("stored") / "ego4d_val.json"
    text = json.dumps(raw, indent=indent, ensure_ascii=escaped)
    path.write_bytes((b"\xef\xbb\xbf" if marked else b"") + text.encode())
    expected = [
        (clip, key, json.dumps(entry)) for clip, actions in raw.items() for key, entry in actions.items()
    ]
    seen: list[Item] = []
    with stored(AT_ONCE=at_once), mock.patch.object(json_stream, "BLOCK", block):
        if not expected:
            with pytest.raises(UserError, match="holds no action"):
                Annotations.read(path)
            return
        found = Annotations.read(path, seen.append)
        for each in (found, seen):
            assert [(item.clip, item.id, json.dumps(item.action.entry)) for item in each] == expected
        assert [*found.items] == [found.items[place] for place in range(len(expected))]
    assert isinstance(found.items, StoredItems)
    assert found.raw == raw
    assert found.clips == list(raw)
    assert found.clips_in_use == [clip for clip, actions in raw.items() if actions]


@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_slices_and_choices_are_those_of_a_list(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    raw: dict[str, Any] = {"none": {}, **world(3, 5), "empty": {}}
    raw = {"none": {}, "c0": raw["c0"], "hole": {}, "c1": raw["c1"], "c2": raw["c2"], "empty": {}}
    path = write(tmp_path_factory.mktemp("slices"), raw)
    expected: Any = Annotations.read(path).items
    found: Any = read_stored(path)
    for _ in range(3):
        if expected and data.draw(st.booleans()):
            places = np.array(data.draw(st.lists(st.integers(0, len(expected) - 1), max_size=5)), np.int64)
            expected, found = choose(expected, places), choose(found, places)
        else:
            part = data.draw(st.slices(len(expected)))
            expected, found = expected[part], found[part]
        assert isinstance(found, StoredItems)
        with stored(AT_ONCE=data.draw(st.integers(1, 6))):
            assert [*found] == expected
        assert len(found) == len(expected)
        assert [found[place] for place in range(-len(found), len(found))] == expected * 2
    for place in (len(found), -len(found) - 1):
        with pytest.raises(IndexError):
            found[place]


def test_a_small_file_is_a_list(tmp_path: Path) -> None:
    path = write(tmp_path, world(1, 2))
    assert isinstance(Annotations.read(path).items, list)
    with mock.patch.object(stored_items, "LARGE", path.stat().st_size):
        assert isinstance(Annotations.read(path).items, list)
    with mock.patch.object(stored_items, "LARGE", path.stat().st_size - 1):
        assert isinstance(Annotations.read(path).items, StoredItems)


def test_a_file_that_is_written_in_place_is_told(tmp_path: Path) -> None:
    path = write(tmp_path, world(2, 2))
    items = read_stored(path)
    content = path.read_bytes()
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    said = rf"^{path}: has changed since this run began to read it; start it again$"
    with pytest.raises(UserError, match=said):
        items[0]
    items = read_stored(path)
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=said):
        list(items)


def test_a_file_that_takes_its_place_changes_nothing(tmp_path: Path) -> None:
    path = write(tmp_path, world(2, 2))
    expected = Annotations.read(path).items
    items = read_stored(path)
    other = write(tmp_path / "..", world(1, 1))
    other.replace(path)
    assert [*items] == expected
    path.unlink()
    assert [*items] == expected


def test_another_process_gets_them_by_their_file(tmp_path: Path) -> None:
    path = write(tmp_path, world(3, 2))
    items = read_stored(path)[1::2]
    sent = pickle.dumps(items)
    assert [*pickle.loads(sent)] == [*items]
    write(tmp_path, world(3, 3))
    with pytest.raises(UserError, match="has changed since this run began"):
        pickle.loads(sent)
    path.unlink()
    with pytest.raises(UserError, match=r"ego4d_val\.json: cannot be read \(No such file"):
        pickle.loads(sent)


def test_threads_read_side_by_side(tmp_path: Path) -> None:
    path = write(tmp_path, world(20, 20))
    items, expected = read_stored(path), Annotations.read(path).items
    order = np.random.default_rng(0).permutation(400).tolist() * 3
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(items.__getitem__, order)) == [expected[place] for place in order]


def test_one_clip_of_all_actions_is_never_read_as_a_whole(tmp_path: Path) -> None:
    path = write(tmp_path, world(1, 50))
    items = read_stored(path, AT_ONCE=8)
    with (
        stored(AT_ONCE=8),
        mock.patch.object(ItemStore, "read", autospec=True, side_effect=ItemStore.read) as read,
    ):
        assert [*items] == Annotations(world(1, 50), path).items
    assert [call.args[1:] for call in read.call_args_list] == [
        (row, min(8, 50 - row)) for row in range(0, 50, 8)
    ]


def test_the_file_is_closed_with_the_last_view(tmp_path: Path) -> None:
    items = read_stored(write(tmp_path, world(1, 3)))
    handle, part = items.store.file.handle, items[1:]
    del items
    assert os.fstat(handle).st_size > 0
    del part
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(handle)


def test_a_stored_item_takes_a_small_part_of_the_memory(tmp_path: Path) -> None:
    path = write(tmp_path, world(200, 100))

    def taken(large: int) -> tuple[int, int]:
        blocks = mock.patch.object(json_stream, "BLOCK", 1 << 16)
        with mock.patch.object(stored_items, "LARGE", large), blocks:
            tracemalloc.start()
            try:
                items = Annotations.read(path).items
                assert sum(1 for _ in items) == 20_000
                return tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()

    (held, most), (listed, _) = taken(-1), taken(path.stat().st_size)
    assert held < 20_000 * 20  # bytes
    assert listed > 20 * held
    assert most < listed
