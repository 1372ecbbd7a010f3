"""Each fault that a data set can have is found by its check, and by no other that it does not concern."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from egogen.layout import Layout
from tests.egogen.damage import (
    annotations,
    edit,
    faults,
    frame,
    jpeg,
    target_differs,
    target_extra,
    unfinished,
)


def missing(root: Path) -> None:
    frame(root, "train", 0, "45").unlink()


def cut_off(root: Path) -> None:
    path = frame(root, "train", 1, "45")
    path.write_bytes(path.read_bytes()[:-40])


def without_its_last_byte(root: Path) -> None:
    path = frame(root, "train", 1, "45")
    path.write_bytes(path.read_bytes()[:-1])


def no_image(root: Path) -> None:
    frame(root, "train", 1, "30").write_bytes(b"hello")


def extra(root: Path) -> None:
    (root / "EgoGen/ego4d.fho/train/notes.txt").write_text("x")


def other_pair_size(root: Path) -> None:
    frame(root, "train", 2, "45").write_bytes(jpeg(72, 40))


def other_aspect(root: Path) -> None:
    for name in ("30", "45"):
        frame(root, "train", 2, name).write_bytes(jpeg(60 if name == "30" else 61, 40))


def other_height(root: Path) -> None:
    for name in ("30", "45"):
        frame(root, "train", 2, name).write_bytes(jpeg(142, 80) + name.encode())


def sorts_later(root: Path) -> None:
    def swap(value: Any) -> None:
        action = value["toy_train_000003"]["0"]
        action["image_0"], action["image_1"] = action["image_1"], action["image_0"]

    edit(annotations(root, "train"), swap)


def sorts_after_a_stranger(root: Path) -> None:
    shutil.copy(frame(root, "train", 3, "45"), frame(root, "train", 3, "45").with_name("aaa.jpg"))


def one_frame(root: Path) -> None:
    edit(
        annotations(root, "train"),
        lambda value: value["toy_train_000003"]["0"].update(
            image_1=value["toy_train_000003"]["0"]["image_0"]
        ),
    )


def twice(root: Path) -> None:
    edit(
        annotations(root, "train"),
        lambda value: value["toy_train_000003"].update({"1": value["toy_train_000003"]["0"]}),
    )


def same_bytes(root: Path) -> None:
    shutil.copy(frame(root, "train", 0, "30"), frame(root, "val", 0, "30"))


def leak(root: Path) -> None:
    def change(value: Any) -> None:
        value["toy_train_000000"] = value.pop("toy_val_000000")

    edit(annotations(root, "val"), change)


def bad_entry(root: Path) -> None:
    edit(annotations(root, "train"), lambda value: value["toy_train_000000"]["0"].pop("image_1"))


def bad_clip(root: Path) -> None:
    edit(annotations(root, "train"), lambda value: value.update(toy_train_000000=3))


def bad_json(root: Path) -> None:
    annotations(root, "train").write_text("{")


def no_metadata(root: Path) -> None:
    edit(root / "EgoGen/ego4d_metadata.json", lambda value: value.pop("toy_val_000001"))


def bad_metadata(root: Path) -> None:
    edit(root / "EgoGen/ego4d_metadata.json", lambda value: value["toy_val_000001"].update(height=0))


def empty_metadata(root: Path) -> None:
    (root / "EgoGen/ego4d_metadata.json").write_text("{}")


def target_missing(root: Path) -> None:
    Layout(root, "ego4d").metric_targets.joinpath("toy_val_000000/0/frame_0000000045.jpg").unlink()


def curated_elsewhere(root: Path) -> None:
    edit(Layout(root, "ego4d").conversations, lambda value: value[1].update(image="toy_val_000000/0/x.jpg"))


def curated_badly(root: Path) -> None:
    edit(Layout(root, "ego4d").conversations, lambda value: value[1].pop("conversations"))


def curated_as_object(root: Path) -> None:
    Layout(root, "ego4d").conversations.write_text('{"a": 1}')


def reserved_label(root: Path) -> None:
    edit(
        annotations(root, "train"), lambda value: value["toy_train_000000"]["0"].update(action="cut </s> it")
    )


def blank_label(root: Path) -> None:
    edit(annotations(root, "val"), lambda value: value["toy_val_000000"]["0"].update(action=" \u200b"))


def curated_with_signs(root: Path) -> None:
    edit(
        Layout(root, "ego4d").conversations,
        lambda value: value[1]["conversations"][1].update(value="The hand <s> cuts."),
    )


CASES: dict[Callable[[Path], None], dict[str, str]] = {
    missing: {
        "ego4d/train, frames present": "toy_train_000000/0/frame_0000000045.jpg: no such frame",
    },
    cut_off: {
        "ego4d/train, frames readable": r"000001/0/frame_0000000045.jpg: (not a readable image|is cut off)"
    },
    without_its_last_byte: {"ego4d/train, frames readable": "is cut off|truncated"},
    no_image: {"ego4d/train, frames readable": "not a readable image"},
    extra: {"ego4d/train, extra files": "notes.txt: no action names this file"},
    other_pair_size: {"ego4d/train, sizes of pairs": "72 x 40, its input is 71 x 40"},
    other_aspect: {
        "ego4d/train, sizes of pairs": "61 x 40, its input is 60 x 40",
        "ego4d/train, aspect ratio": "60 x 40, the metadata's 71 x 40 asks for a width of 71",
    },
    other_height: {"ego4d/train, height": "height 80, expected 40"},
    sorts_later: {"ego4d/train, input sorts first": "'frame_0000000030.jpg' sorts before it"},
    sorts_after_a_stranger: {
        "ego4d/train, extra files": "aaa.jpg",
        "ego4d/train, input sorts first": "'aaa.jpg' sorts before it",
    },
    one_frame: {
        "ego4d/train, extra files": "frame_0000000045",
        "ego4d/train, input sorts first": "is both the input and the target",
    },
    twice: {
        "ego4d/train, same frames": "toy_train_000003/1: the same as toy_train_000003/0",
        "ego4d/train, same label and frame": "toy_train_000003/1: the same as toy_train_000003/0",
    },
    same_bytes: {
        "ego4d, same content": "val/toy_val_000000/0/.*30.jpg: the same bytes as train/toy_train_000000"
    },
    leak: {
        "ego4d, clips in train and val": "clip 'toy_train_000000' is in the train and in the val annotations"
    },
    bad_entry: {
        "ego4d/train, annotations": "action '0': the field 'image_1' is missing",
        "ego4d/train, extra files": "toy_train_000000",
        "ego4d/train, curation": "is no frame of the train annotations",
    },
    bad_clip: {
        "ego4d/train, annotations": "clip 'toy_train_000000': found int 3",
        "ego4d/train, extra files": "toy_train_000000",
        "ego4d/train, curation": "is no frame of the train annotations",
    },
    bad_json: {
        "ego4d/train, annotations": "not valid JSON",
        "ego4d/train, extra files": "toy_train_000000",
        "ego4d/train, curation": "is no frame of the train annotations",
    },
    no_metadata: {"ego4d, metadata": "clip 'toy_val_000001' is missing"},
    bad_metadata: {"ego4d, metadata": "clip 'toy_val_000001', field 'height': found 0"},
    empty_metadata: {"ego4d, metadata": "clip 'toy_train_000000' is missing"},
    target_missing: {"ego4d/val, metric targets": "frame_0000000045.jpg: missing in val_gt_for_metric"},
    target_differs: {"ego4d/val, metric targets": "its bytes differ from those of the val target"},
    target_extra: {"ego4d/val, metric targets": "x.jpg: in val_gt_for_metric, but no val target"},
    curated_elsewhere: {"ego4d/train, curation": "record 1: the image 'toy_val_000000/0/x.jpg' is no frame"},
    curated_badly: {"ego4d/train, curation": "record 1: the field 'conversations' is missing"},
    reserved_label: {"ego4d/train, annotations": "action '0': the label 'cut </s> it': it holds </s>, which"},
    blank_label: {"ego4d/val, annotations": "action '0': the label .*: it is blank"},
    curated_with_signs: {"ego4d/train, curation": "record 1: the turn 'The hand <s> cuts.': it holds <s>"},
    curated_as_object: {"ego4d/train, curation": "found dict, expected a list of records"},
    unfinished: {"all, leftover files": ".x.jpg.00.part: unfinished"},
}


@pytest.mark.parametrize("damage", CASES, ids=lambda damage: damage.__name__)
def test_a_fault_is_found(root: Path, damage: Callable[[Path], None]) -> None:
    damage(root)
    found = faults(root)
    assert set(found) == set(CASES[damage])
    for where, pattern in CASES[damage].items():
        assert re.search(pattern, found[where][0]), found[where]
