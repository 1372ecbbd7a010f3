"""Large JSON part by part: the same values as all at once, and the same errors."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egogen.prepare.big_json import Reader

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


def parts(reader: Reader, depth: int) -> Any:
    """Enters objects and lists down to a depth; reads the rest whole."""
    if depth == 0 or reader.skip() not in ("{", "["):
        return reader.value()
    is_list = reader.skip() == "["
    found = [(key, parts(reader, depth - 1)) for key in reader.members()]
    return [value for _, value in found] if is_list else dict(found)


@given(VALUES, st.integers(0, 4), st.sampled_from([None, 2]))
def test_parts_make_the_whole(value: Any, depth: int, indent: int | None) -> None:
    assert parts(Reader(json.dumps(value, indent=indent)), depth) == value


@pytest.mark.parametrize("text", ["", "[1", "[1 2]", '{"a" 1}', '{"a": 1', "{3: 1}", "[1,]", '["a]'])
def test_errors_are_those_of_json(text: str) -> None:
    with pytest.raises(json.JSONDecodeError):
        parts(Reader(text), 1)


def test_only_lists_and_objects_have_members() -> None:
    with pytest.raises(json.JSONDecodeError, match="Expecting one of"):
        next(Reader("3").members())
