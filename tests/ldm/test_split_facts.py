"""What is gathered while annotations are read: witness is a look at all items afterwards."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egogen.annotations import Action, Annotations, Item
from egogen.errors import UserError
from egogen.layout import FRAME_FORMATS, Layout, generated_name, target_name
from egogen.text_names import frame_mark
from ldm.config.sections import DataConfig
from ldm.data.pairs import EgoGenPairs, SplitFiles
from ldm.data.split_facts import SplitFacts

pytestmark = pytest.mark.usefixtures("kept_items")
TARGETS = [
    "c/a/x.jpg",
    "c/a/x.png",
    "c/a/x",
    "./c/a/x.jpg",
    "b/c/a/x.jpg",
    "c/a/y.jpg",
    "c/b/x.y.jpg",
    "c/b/x.y",
]


def entry(target: str, **more: str) -> dict[str, str]:
    return {"image_0": "c/a/0.jpg", "image_1": target, "action": "#C C cuts", **more}


@given(targets=st.lists(st.sampled_from(TARGETS), max_size=4))
def test_targets_are_apart_if_no_format_makes_two_frames_one(targets: list[str]) -> None:
    facts = SplitFacts("action", named=True)
    for number, target in enumerate(targets):
        facts(Item("c", f"{number}", Action(entry(target))))
    drawn = [[generated_name(target_name(target), form) for target in targets] for form in FRAME_FORMATS]
    assert facts.are_apart == all(len(set(names)) == len(names) for names in drawn)
    assert facts.input_marks.tolist() == [frame_mark("c/a/0.jpg")] * len(targets)
    assert facts.lacking is None


def split(root: Path, entries: dict[str, dict[str, str]]) -> DataConfig:
    path = Layout(root, "ego4d").annotations("val")
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"c": entries}))
    return DataConfig(root=str(root), dataset="ego4d", text_key="told")


def test_the_first_action_without_a_text_is_named(tmp_path: Path) -> None:
    config = split(tmp_path, {"0": entry("0.jpg", told="cut"), "1": entry("1.jpg"), "2": entry("2.jpg")})
    with pytest.raises(UserError, match=r"clip 'c', action '1' has no text 'told'; run llava\.describe"):
        SplitFiles(config, "val")


def test_pairs_reach_processes_that_begin_with_nothing(tmp_path: Path) -> None:
    """As PyTorch's workers do where they are spawned: what they read of is pickled."""
    config = split(tmp_path, {f"{number}": entry(f"{number}.jpg", told="cut") for number in range(3)})
    files = SplitFiles(config, "val", llm_width=8)
    assert files.are_apart
    (found,) = pickle.loads(pickle.dumps(EgoGenPairs([files]))).sources
    assert [*found.items] == [*Annotations.read(files.annotations.source)]
    assert [found.features.names.of(item) for item in found.items] == [
        "c/a/0.jpg",
        "c/a/0.c.1.jpg",
        "c/a/0.c.2.jpg",
    ]
