"""Annotations and metadata: nothing is lost, and every fault is named."""

import json
import random
import re
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from egogen.annotations import PLAIN, Annotations, check_relative, read_metadata, shorten
from egogen.errors import UserError
from egogen.layout import DESCRIPTION_KEY

ENTRY = {"image_0": "c/a/0.jpg", "image_1": "c/a/1.jpg", "action": "#C C picks up the cup"}
SOURCE = Path("ego4d_val.json")
pytestmark = pytest.mark.usefixtures("kept_items")


def write(folder: Path, value: object) -> Path:
    path = folder / "ego4d_val.json"
    path.write_text(json.dumps(value))
    return path


def entry(**changes: Any) -> dict[str, Any]:
    return {**ENTRY, **changes}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
EXTRA = st.dictionaries(st.text().filter(lambda key: key not in {*ENTRY, DESCRIPTION_KEY}), JSON, max_size=3)


@settings(deadline=None)  # a loaded machine is no fault
@given(extra=EXTRA, clips=st.lists(st.text(), unique=True, min_size=1, max_size=3), label=st.text(min_size=1))
def test_a_file_comes_back_as_it_was_read(
    tmp_path_factory: pytest.TempPathFactory, extra: dict[str, Any], clips: list[str], label: str
) -> None:
    folder = tmp_path_factory.mktemp("annotations")
    raw = {clip: {"b": entry(action=label) | extra, "a": ENTRY} for clip in clips}
    Annotations.read(write(folder, raw)).write(folder / "copy.json")
    copy = json.loads((folder / "copy.json").read_text())
    assert json.dumps(copy) == json.dumps(raw)  # as text: the order of keys counts


def test_items_stand_in_file_order() -> None:
    items = list(Annotations({"z": {"2": ENTRY, "1": ENTRY}, "empty": {}, "a": {"1": ENTRY}}, SOURCE))
    assert [(item.clip, item.id) for item in items] == [("z", "2"), ("z", "1"), ("a", "1")]
    assert len(Annotations({}, SOURCE)) == 0


@pytest.mark.parametrize("key", ["text", "copy", "model_config", "dict", "own key"])
def test_text_of_any_key(key: str) -> None:
    action = Annotations({"c": {"a": entry(**{key: "words", "number": 3})}}, SOURCE).items[0].action
    assert action.text(key) == "words"
    assert action.text("action") == ENTRY["action"]
    assert action.text("number") is None
    assert action.text("validate") is None


def test_new_texts_leave_the_rest_alone(tmp_path: Path) -> None:
    raw = {"n": {}, "c": {"a": entry(**{DESCRIPTION_KEY: "old", "z": 1}), "b": ENTRY}, "\u00e9": {"a": ENTRY}}
    before = Annotations(raw, SOURCE)
    before.write(tmp_path / "same.json")
    assert (tmp_path / "same.json").read_text() == f"{json.dumps(raw, indent=4)}\n"
    before.write(tmp_path / "new.json", ["new", None, "he \u00e9"])
    raw["c"]["a"] = entry(**{DESCRIPTION_KEY: "new", "z": 1})
    raw["\u00e9"]["a"] = {**ENTRY, DESCRIPTION_KEY: "he \u00e9"}
    assert (tmp_path / "new.json").read_text() == f"{json.dumps(raw, indent=4)}\n"
    assert before.raw["c"]["a"][DESCRIPTION_KEY] == "old"
    Annotations({}, SOURCE).write(tmp_path / "none.json")
    assert (tmp_path / "none.json").read_text() == "{}\n"


@pytest.mark.parametrize(
    ("raw", "parts"),
    [
        ([], ["ego4d_val.json: found list []", "clips by clip_id"]),
        ({"c": []}, ["clip 'c': found list", "actions by action_id"]),
        ({"c": {"a": None}}, ["clip 'c', action 'a': found NoneType", "named fields"]),
        (
            {"c": {"a": {"image_1": "x.jpg", "action": "cut"}}},
            ["'image_0' is missing; found 'image_1', 'action'"],
        ),
        ({"c": {"a": {}}}, ["is missing; found nothing"]),
        ({"c": {"a": entry(action=3)}}, ["field 'action': found 3: Input should be a valid string"]),
        ({"c": {"a": entry(action="")}}, ["field 'action': found ''", "at least 1 character"]),
        (
            {"c": {"a": entry(image_0="/etc/passwd")}},
            ["field 'image_0': found '/etc/passwd'", "absolute path"],
        ),
        ({"c": {"a": entry(image_1="a/../../b.jpg")}}, ["field 'image_1'", "contains '..'"]),
        ({"c": {"a": entry(**{DESCRIPTION_KEY: ["x"]})}}, [f"field '{DESCRIPTION_KEY}': found ['x']"]),
    ],
)
def test_faults_are_named(tmp_path: Path, raw: object, parts: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        Annotations.read(write(tmp_path, raw))
    message = str(caught.value)
    assert "ego4d_val.json" in message
    assert "\n" not in message
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    "path", ["a/b/x.jpg", "x.jpg", "./a/x.jpg", "a//x.jpg", "a/.../x.jpg", "a b/é.png", "..a/b..jpg"]
)
def test_paths_inside_the_split_are_kept(path: str) -> None:
    assert check_relative(path) == path


@pytest.mark.parametrize(
    "path",
    [
        "",
        ".",
        "/",
        "/a.jpg",
        "a/",
        "a/.",
        "..",
        "../a.jpg",
        "a/..",
        "a/../b.jpg",
        "a\\..\\b.jpg",
        "C:\\a.jpg",
        "\\\\host\\share\\a.jpg",
        "\\a.jpg",
        "a\0.jpg",
    ],
)
def test_paths_that_leave_the_split_are_refused(path: str) -> None:
    with pytest.raises(ValueError, match="allowed: a path"):
        check_relative(path)


def test_metadata_keeps_further_keys(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        {
            "c": {"height": 64, "width": 114, "fps": 30, "boxes": [[1, 2, 3, 4]]},
            "d": {"height": 1, "width": 2},
        },
    )
    metadata = read_metadata(path)
    assert (metadata["c"].height, metadata["c"].width, metadata["c"].fps) == (64, 114, 30)
    assert metadata["c"].model_extra == {"boxes": [[1, 2, 3, 4]]}
    assert metadata["d"].fps is None


def test_facts_of_an_action_are_its_clips_and_its_own(tmp_path: Path) -> None:
    clip = {
        "height": 64,
        "width": 114,
        "hand": "left",
        "actions": {"0": {"hand": "right", "verb": "cut"}, "1": 3},
    }
    found = read_metadata(write(tmp_path, {"c": clip}))["c"]
    assert found.facts("0") == {"hand": "right", "verb": "cut"}
    assert found.facts("1") == found.facts("2") == {"hand": "left"}


@pytest.mark.parametrize(
    ("found", "field"),
    [
        ({"width": 1}, "height"),
        ({"height": 0, "width": 1}, "height"),
        ({"height": True, "width": 1}, "height"),
        ({"height": 1, "width": "64"}, "width"),
        ({"height": 1, "width": 1, "fps": -1}, "fps"),
    ],
)
def test_metadata_faults_are_named(tmp_path: Path, found: dict[str, Any], field: str) -> None:
    with pytest.raises(UserError, match=rf"clip 'c'.*'{field}'"):
        read_metadata(write(tmp_path, {"c": found}))


def test_long_values_are_cut() -> None:
    assert len(shorten("x" * 1000)) == 83
    assert shorten(3) == "3"


def test_the_quick_look_at_a_path_takes_nothing_that_the_thorough_one_refuses() -> None:
    """Random paths of parts that are trouble in one way or another."""
    parts = [
        "a",
        "Z",
        "0",
        "_",
        "-",
        ".",
        "..",
        "/",
        "//",
        "\\",
        ":",
        "C:",
        " ",
        "é",
        "\0",
        "x" * 255,
        "x.jpg",
    ]
    chance, quick = random.Random(0), 0
    for _ in range(20_000):
        path = "".join(chance.choices(parts, k=chance.randint(0, 7)))
        if PLAIN.fullmatch(path):
            quick += 1
            with mock.patch("egogen.annotations.PLAIN", re.compile("(?!)")):
                assert check_relative(path) == path
    assert quick > 500


@pytest.mark.parametrize(
    ("labels", "dataset", "cut", "other"),
    [
        (["cut carrot", "#C C cuts the carrot"], "epickitchen", False, "ego4d"),
        (["#Unsure", "cut carrot"], "epickitchen", True, "ego4d"),
        (["cut carrot", "open door"], "ego4d", True, "epickitchen"),
        (["cut carrot", "open door"], "ego4d", False, ""),  # a person's own, whose words nobody cuts
        (["C cuts", " #c C cuts the carrot"], "ego4d", True, ""),
        (["# 1 screw"], "epickitchen", True, ""),
    ],
)
def test_labels_of_the_other_data_set(labels: list[str], dataset: str, cut: bool, other: str) -> None:
    frames = {"image_0": "a.jpg", "image_1": "b.jpg"}
    found = Annotations(
        {"c": {f"{n}": {**frames, "action": each} for n, each in enumerate(labels)}}, Path("x")
    )
    if other:
        with pytest.raises(UserError, match=rf"^x: clip 'c', .*said to be {dataset}; give {other}, or"):
            found.of(dataset, cut)
    else:
        assert found.of(dataset, cut) is found
