"""From raw videos to stage 1: a toy world filmed, annotated as Ego4D is, prepared, described."""

from __future__ import annotations

import json
from pathlib import Path

from egogen.annotations import Annotations
from egogen.layout import feature_path
from llava.describe import main
from tests.egogen.raw_data import film_toy_world


def test_stage_1_describes_what_was_prepared(tiny: Path, tmp_path: Path) -> None:
    _, made = film_toy_world(tmp_path)
    main([
        *("--model-path", str(tiny), "--image-dir", str(made.frames("val"))),
        *("--action-label", str(made.annotations("val")), "--save-path", str(tmp_path / "texts")),
        *("--save-image-feature-path", str(tmp_path / "image")),
        *("--save-text-feature-path", str(tmp_path / "text"), "--max-new-tokens", "3", "--device", "cpu"),
    ])  # fmt: skip
    texts = json.loads((tmp_path / "texts" / "chunk_1_of_1.json").read_text())
    items = list(Annotations.read(made.annotations("val")))
    assert {(clip, action_id) for clip in texts for action_id in texts[clip]} == {
        (item.clip, item.id) for item in items
    }
    assert all(feature_path(tmp_path / "image", item.action.image_0).exists() for item in items)
