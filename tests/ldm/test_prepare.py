"""From raw videos to stage 2: a toy world filmed, annotated as Ego4D is, prepared, loaded."""

from __future__ import annotations

import pytest

from egogen.annotations import Annotations, read_metadata
from egogen.frames import read_frame
from egogen.layout import Layout, metric_target_path
from egogen.toy import success
from ldm.config.sections import DataConfig
from ldm.data.pairs import EgoGenPairs, SplitFiles
from tests.egogen.raw_data import TOY_SIZE, film_toy_world


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> tuple[Layout, Layout]:
    return film_toy_world(tmp_path_factory.mktemp("films"))


@pytest.mark.parametrize("split", ["train", "val"])
def test_stage_2_reads_what_was_prepared(worlds: tuple[Layout, Layout], split: str) -> None:
    _, made = worlds
    config = DataConfig(root=str(made.root), dataset="ego4d", text_key="action", resolution=32, workers=0)
    files = SplitFiles(config, split)
    files.check()
    pairs = EgoGenPairs([files])
    assert len(pairs) == {"train": 3, "val": 2}[split]
    for index in range(len(pairs)):
        sample = pairs[index]
        assert sample["source"].shape == sample["target"].shape == (3, 32, 32)
        assert sample["prompt"].startswith("#C C ")
        assert not sample["source"].equal(sample["target"])


def test_the_prepared_frames_show_the_action(worlds: tuple[Layout, Layout]) -> None:
    toy, made = worlds
    known, facts = read_metadata(toy.metadata), read_metadata(made.metadata)
    labels = {item.clip: item.action.action for item in Annotations.read(toy.annotations("val"))}
    items = list(Annotations.read(made.annotations("val")))
    assert len(items) == 2
    for item in items:
        assert item.action.action == labels[item.clip]
        assert (facts[item.clip].width, facts[item.clip].height) == TOY_SIZE
        assert not success(read_frame(made.frames("val") / item.action.image_0), known[item.clip])
        assert success(read_frame(made.frames("val") / item.action.image_1), known[item.clip])
        assert success(
            read_frame(metric_target_path(made.metric_targets, item.action.image_1)), known[item.clip]
        )
