import json
from pathlib import Path
from typing import Any

import pytest

from egogen.errors import UserError
from llava.labels import action_words, guess_dataset, published_action_words
from tests.llava.conftest import ORACLE

CASES = json.loads((ORACLE / "labels.json").read_text())
# Where words differ from the published ones, and why: the fixed cut (F-S1-07), WordNet's shortest lemma
# (F-S1-08), and one slip of lemminflect's own.
OURS = {
    "#O a man X walks in the room": "a man X walks in the room",
    "#O man Y picks the bag": "man Y picks the bag",
    "  #C C lifts the lid": "lift the lid",
    "picks up the spoon": "pick up the spoon",
    "#Unsure C picks the cup": "pick the cup",
    "#C C's hand moves": "c's hand moves",
    "#C C scrapes the pan with a spoon": "scrape the pan with a spoon",
    "#C C tapes the box": "tape the box",
    "#C C reties the apron": "rety the apron",
}
LEMMA_ONLY = {
    "#C C scrapes the pan with a spoon": "scrape the pan with a spoon",
    "#C C tapes the box": "tape the box",
    "#C C reties the apron": "rety the apron",
}


@pytest.mark.parametrize("case", CASES["ego4d"], ids=lambda case: case["narration"] or "empty")
def test_ego4d_labels(case: dict[str, Any]) -> None:
    label = case["narration"]
    assert action_words(label, "ego4d") == OURS.get(label, case["action"])
    assert published_action_words(label) == LEMMA_ONLY.get(label, case["action"])


@pytest.mark.parametrize("case", CASES["epic"], ids=lambda case: case["narration"])
def test_epic_labels_stay_as_they_are(case: dict[str, Any]) -> None:
    assert action_words(case["narration"], "epickitchen") == case["action"]


def test_the_file_name_tells_the_data_set() -> None:
    assert guess_dataset(Path("a/ego4d_val.json")) == "ego4d"
    assert guess_dataset(Path("epickitchen_train.json")) == "epickitchen"
    with pytest.raises(UserError, match="--dataset"):
        guess_dataset(Path("ego4d/val.json"))
