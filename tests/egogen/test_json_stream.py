"""Large files read clip by clip: witness is the same file read as a whole, blocks as small as a byte."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from egogen import json_stream
from egogen.annotations import Annotations
from egogen.errors import UserError
from egogen.files import read_json
from egogen.json_stream import UnusualJsonError, stream_object
from egogen.text_names import TextNames

VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
OBJECT = st.dictionaries(st.text(), st.dictionaries(st.text(), VALUE, max_size=3), max_size=4)
pytestmark = pytest.mark.usefixtures("kept_items")
ENTRY = {"image_0": "c/a/0.jpg", "image_1": "c/a/1.jpg", "action": "#C C picks up the cup"}


@settings(deadline=None, max_examples=60)
@given(content=OBJECT, block=st.integers(1, 40), indent=st.sampled_from([None, 1]), plain=st.booleans())
def test_a_stream_gives_what_the_whole_file_holds(
    tmp_path_factory: pytest.TempPathFactory,
    content: dict[str, Any],
    block: int,
    indent: int | None,
    plain: bool,
) -> None:
    path = tmp_path_factory.mktemp("stream") / "a.json"
    text = json.dumps(content, indent=indent, ensure_ascii=plain)
    path.write_bytes(("\ufeff" + text).encode(errors="replace"))
    found: list[tuple[str, Any]] = []
    with mock.patch.object(json_stream, "BLOCK", block):
        try:
            found.extend(each[:2] for each in stream_object(path))
        except UnusualJsonError:
            assert "\\ud" in text, "only pairs of escapes ask for a closer look"
            return
    assert json.dumps(found) == json.dumps(list(read_json(path).items()))


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", '{"a": {}', '{"a": {}} x', '{"a": {},}', '{"a": {}, "a": {}}',
        '{"a": {"b": 1, "b": 2}}',
        '{"a": {"b": NaN}}', '{"a" {}}',
        "{1: {}}", '{"a": {"b": "\\ud800"}}', '{"a": {"b": 1e999}}', '{"a": 1}',
        '{"a": {"b": ' + "[" * 200 + "]" * 200 + "}}",
    ],
)  # fmt: skip
def test_a_fault_is_told_as_of_a_file_that_is_read_as_a_whole(tmp_path: Path, text: str) -> None:
    path = tmp_path / "ego4d_val.json"
    path.write_text(text)
    with pytest.raises(UserError) as streamed:
        Annotations.read(path)
    with pytest.raises(UserError) as whole:
        Annotations(read_json(path) if text != "[]" else {"": []}, path)
    if text != "[]":
        assert str(streamed.value) == str(whole.value)
    assert "\n" not in str(streamed.value)


def test_a_fault_behind_many_clips_is_found(tmp_path: Path) -> None:
    path = tmp_path / "ego4d_val.json"
    path.write_text(json.dumps({f"{number}": {"a": ENTRY} for number in range(9)})[:-1] + ', "x": {"a": {}}}')
    with (
        mock.patch.object(json_stream, "BLOCK", 64),
        pytest.raises(UserError, match=r"clip 'x', action 'a': the field 'image_0' is missing"),
    ):
        Annotations.read(path)


def test_an_action_takes_little_memory(tmp_path: Path) -> None:
    entries = {f"{number:03d}": {**ENTRY, "image_0": f"c/{number:03d}/0.jpg"} for number in range(1000)}
    path = tmp_path / "ego4d_val.json"
    path.write_text(json.dumps({"c": entries}))
    items = Annotations.read(path).items
    assert [item.action.entry for item in items] == list(entries.values())
    assert not hasattr(items[0].action, "__dict__"), "a million actions have no dictionaries of their own"
    assert not TextNames(items, lambda action: action.image_0).own, "names that are the frames' are not kept"
