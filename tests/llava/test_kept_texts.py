"""Texts that stay in their files: witness is a dictionary of all of them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from egogen.annotations import Annotations
from egogen.errors import UserError
from llava.describing.given_texts import read_texts
from llava.describing.merging import join, merge

pytestmark = pytest.mark.usefixtures("kept_items")
SIGNS = ["}", "{", '"', "\\", "\u00e9", "\U0001f600\u4e2d", ":", ",", "[", "]", "a\nb", "x"]


def label(number: int) -> str:
    return f"#C C picks up the {SIGNS[number % len(SIGNS)]} {number}"


def edits(folder: Path, clips: int, actions: int) -> Annotations:
    raw = {
        f"c{clip}": {
            f"{number}": {
                "image_0": f"{clip}/{number}.jpg",
                "image_1": f"{clip}/{number}.png",
                "action": label(number),
            }
            for number in range(actions)
        }
        for clip in range(clips)
    }
    path = folder / "ego4d_val.json"
    path.write_text(json.dumps({"none": {}, **raw}))
    return Annotations.read(path)


def shards(found: Annotations, folder: Path, count: int, reverse: bool = False) -> list[Path]:
    """Descriptions in strided shards; each is that of its action alone."""
    paths = []
    for shard in range(count):
        raw: dict[str, Any] = {}
        for item in [*found.items[shard::count]][:: -1 if reverse else 1]:
            raw.setdefault(item.clip, {})[item.id] = {
                "original action": item.action.action,
                "description": text(item.clip, item.id),
                "more": [{"}": "{"}] if item.id == "1" else "}",
            }
        paths.append(folder / f"shard_{shard + 1}_of_{count}.json")
        paths[-1].write_text(json.dumps(raw, ensure_ascii=bool(shard % 2), indent=shard or None))
    return paths


def text(clip: str, action: str) -> str:
    return f"He {SIGNS[int(action) % len(SIGNS)]} does {clip} {action}."


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("count", [1, 3, 8])
def test_each_action_gets_its_own(tmp_path: Path, count: int, reverse: bool) -> None:
    found = edits(tmp_path, 4, 9)
    joined = join(shards(found, tmp_path, count, reverse))
    expected = [text(item.clip, item.id) for item in found]
    for at_once in (1, 5, 100):
        with mock.patch("llava.describing.kept_texts.AT_ONCE", at_once):
            assert [*merge(found, joined, tmp_path)] == expected
    assert [*joined.texts(joined.find(found.items[3::7]))] == expected[3::7]


def test_files_are_closed_and_opened_again(tmp_path: Path) -> None:
    found = edits(tmp_path, 2, 4)
    paths = shards(found, tmp_path, 2)
    joined = join(paths)
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    assert len([*merge(found, joined, tmp_path)]) == 8
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
    assert all(file.store is not None and not file.store.file.close.alive for file in joined.files)
    paths[1].write_text("{}")
    with pytest.raises(UserError, match=r"shard_2_of_2\.json: has changed since this run began"):
        list(merge(found, joined, tmp_path))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        # What is wrong with a file as a whole comes first, but an action that was there before it.
        ({1: lambda at: at.replace('"description": "', '"description": 5, "": "') + "]"}, "not valid JSON"),
        ({1: lambda _: '{"c0": {"0": {"original action": "", "description": ""}}} ]'}, "not valid JSON"),
        ({1: lambda _: '{"c0": {"0": 5}}'}, r"2_of_3\.json: .* '0' is in shard_1_of_3\.json as well"),
        (
            {1: lambda at: at.replace('"c1"', '"c0"', 1), 2: lambda _: "]"},
            r"shard_2_of_3\.json: the key 'c0' occurs twice",
        ),
        ({2: lambda _: '{"c0": {"x": 5, "0": 5}}'}, "clip 'c0', action 'x': found int 5"),
    ],
)  # fmt: skip
def test_of_several_faults_the_first_is_told(
    tmp_path: Path, spoil: dict[int, Callable[[str], str]], message: str
) -> None:
    paths = shards(edits(tmp_path, 2, 5), tmp_path, 3)
    for number, change in spoil.items():
        paths[number].write_text(change(paths[number].read_text()))
    with pytest.raises(UserError, match=message):
        join(paths)


def test_texts_that_are_no_objects(tmp_path: Path) -> None:
    """Braces in them, as many as objects would have."""
    found = edits(tmp_path, 2, 12)
    path = tmp_path / "given.json"
    given = {
        clip: {item.id: f" {text(clip, item.id)}}} " for item in found if item.clip == clip}
        for clip in ("c1", "c0")
    }
    given["c0"]["3"] = {"description": "}", "original action": label(3)}  # type: ignore[assignment]
    path.write_text(json.dumps(given))
    texts = read_texts(path, found.items, found.source)
    expected = ["}" if key == ("c0", "3") else f"{text(*key)}}}" for key in ((i.clip, i.id) for i in found)]
    assert [*texts.texts(texts.find(found))] == expected
    assert [*texts.texts(texts.find(found)[::-5])] == expected[::-5]
