"""The toy world on disk: layout, contents, determinism, refusals."""

import os
from pathlib import Path

import pytest
from PIL import Image

from egogen.annotations import Annotations, read_metadata
from egogen.conversations import read_conversations
from egogen.errors import UserError
from egogen.layout import FOLDERS, Layout, metric_target_path
from egogen.toy import success
from egogen.toy.__main__ import main
from egogen.toy.world import write_world

TRAIN, VAL, SIZE = 20, 6, 40


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("toy")
    write_world(out, TRAIN, VAL, SIZE, seed=3, workers=1)
    return out


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("dataset", list(FOLDERS))
def test_layout(root: Path, dataset: str) -> None:
    layout = Layout(root, dataset)
    facts = read_metadata(layout.metadata)
    for split, count in (("train", TRAIN), ("val", VAL)):
        items = list(Annotations.read(layout.annotations(split)))
        assert len(items) == count
        for item in items:
            assert set(item.action.entry) == {"image_0", "image_1", "action"}
            before, after = (
                layout.frames(split) / item.action.image_0,
                layout.frames(split) / item.action.image_1,
            )
            assert sorted(before.parent.iterdir()) == [before, after]
            with Image.open(after) as frame:
                assert frame.format == "JPEG"
                assert frame.size == (facts[item.clip].width, facts[item.clip].height) == (71, SIZE)
            assert "jpg" not in str(before.with_suffix("").relative_to(root))
            if split == "val":
                target = metric_target_path(layout.metric_targets, item.action.image_1)
                assert target.read_bytes() == after.read_bytes()
    assert len(list(layout.metric_targets.rglob("*.jpg"))) == VAL
    assert len(facts) == TRAIN + VAL


@pytest.mark.parametrize("dataset", list(FOLDERS))
def test_conversations_are_of_the_train_split(root: Path, dataset: str) -> None:
    layout = Layout(root, dataset)
    facts = read_metadata(layout.metadata)
    records = read_conversations(layout.conversations)
    items = list(Annotations.read(layout.annotations("train")))
    assert [record.image for record in records] == [item.action.image_0 for item in items]
    for record, item in zip(records, items, strict=True):
        question, answer = record.conversations
        assert (question.speaker, answer.speaker) == ("human", "gpt")
        assert question.value.startswith("<image>\nHow does the person properly ")
        assert question.value.endswith(" that is displayed in the video frame?")
        assert answer.value == facts[item.clip].model_dump()["description"]


@pytest.mark.parametrize("dataset", list(FOLDERS))
def test_written_frames_are_judged_rightly(root: Path, dataset: str) -> None:
    layout = Layout(root, dataset)
    facts = read_metadata(layout.metadata)
    for item in Annotations.read(layout.annotations("train")):
        with Image.open(layout.frames("train") / item.action.image_1) as frame:
            assert success(frame, facts[item.clip])
        with Image.open(layout.frames("train") / item.action.image_0) as frame:
            assert not success(frame, facts[item.clip])


def test_data_sets_and_splits_differ(root: Path) -> None:
    frames = [data for path, data in contents(root).items() if path.endswith("30.jpg")]
    assert len(set(frames)) == len(frames) == 2 * (TRAIN + VAL)


def test_worker_count_changes_nothing(root: Path, tmp_path: Path) -> None:
    write_world(tmp_path, TRAIN, VAL, SIZE, seed=3, workers=2)
    assert contents(tmp_path) == contents(root)


def test_a_pair_does_not_depend_on_how_many_there_are(root: Path, tmp_path: Path) -> None:
    write_world(tmp_path, 5, 0, SIZE, seed=3, workers=1)
    all_of_them = contents(root)
    frames = {path: data for path, data in contents(tmp_path).items() if path.endswith(".jpg")}
    assert len(frames) == 20
    assert all(all_of_them[path] == data for path, data in frames.items())


def test_another_seed_makes_another_world(root: Path, tmp_path: Path) -> None:
    write_world(tmp_path, 5, 0, SIZE, seed=4, workers=1)
    name = "EgoGen/ego4d.fho/train/toy_train_000000/0/frame_0000000030.jpg"
    assert (tmp_path / name).read_bytes() != (root / name).read_bytes()


def test_an_unfinished_world_is_completed_and_a_complete_one_left(tmp_path: Path) -> None:
    arguments = ["--out", str(tmp_path), "--train", "4", "--val", "2", "--size", "32", "--workers", "1"]
    main(arguments)
    before = contents(tmp_path)
    texts = tmp_path / "EgoGen" / "epickitchen_train.json"
    texts.unlink()
    frame = next(tmp_path.rglob("*45.jpg"))
    frame.unlink()
    main(arguments)
    assert contents(tmp_path) == before
    for path, size in ((frame, 0), (frame, 500), (texts, 0), (texts, 50)):
        os.truncate(path, size)
        main(arguments)
        assert contents(tmp_path) == before
    written = texts.stat().st_mtime_ns
    main(arguments)
    assert texts.stat().st_mtime_ns == written


def test_an_empty_world_is_a_world(tmp_path: Path) -> None:
    write_world(tmp_path, 0, 0, 32, workers=1)
    assert Layout(tmp_path, "ego4d").annotations("val").read_text() == "{}\n"


def test_settings_are_not_mixed(root: Path) -> None:
    with pytest.raises(UserError, match=r"made with seed = 3, this run has 5"):
        write_world(root, TRAIN, VAL, SIZE, seed=5, workers=1)


def test_real_data_are_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "EgoGen").mkdir()
    (tmp_path / "EgoGen" / "ego4d_train.json").write_text("{}")
    with pytest.raises(UserError, match="holds data that are not a toy world; choose another --out"):
        write_world(tmp_path, 1, 1, 32, workers=1)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--size", "31"], "--size 31: expected 32 to 1024 pixels"),
        (["--train", "-1"], "--train -1: expected 0 to 1000000 pairs"),
        (["--val", "-2"], "--val -2: expected 0 to 1000000 pairs"),
        (["--train", "9" * 30], "--train 9+: expected 0 to 1000000 pairs"),
    ],
)
def test_wrong_arguments(tmp_path: Path, flags: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        main(["--out", str(tmp_path / "new"), *flags])
    assert not (tmp_path / "new").exists()
