"""Every fault that a data set can have is found by its check, and by no other that it does not concern."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from egogen.errors import UserError
from egogen.features import write_feature
from egogen.layout import Layout
from egogen.validate.__main__ import main
from egogen.validate.validate_options import ValidateOptions
from egogen.validate.whole import validate
from tests.egogen.damage import annotations, edit, faults, frame, target_differs, target_extra, unfinished

WIDTH = 8


def jpeg(width: int, height: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (width, height), (width, height, 0)).save(stream, "JPEG")
    return stream.getvalue()


def test_a_sound_data_set(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(root), "--json", str(root / "report.json"), "--workers", "2"])
    shown = capsys.readouterr().out
    assert shown.endswith(": 0 faults in 51 checks\n")
    assert re.search(r"^ego4d/train +frames present +10 +0$", shown, re.MULTILINE)
    report = json.loads((root / "report.json").read_text())
    assert report["clean"] is True
    counts = {(row["dataset"], row["split"], row["check"]): row["items"] for row in report["checks"]}
    assert counts["epickitchen", "val", "metric targets"] == 3
    assert counts["ego4d", "", "same content"] == 16


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
    unfinished: {
        "all, leftover files": ".x.jpg.00.part: unfinished",
        "ego4d/train, input sorts first": "sorts before it",
    },
}


@pytest.mark.parametrize("damage", CASES, ids=lambda damage: damage.__name__)
def test_a_fault_is_found(root: Path, damage: Callable[[Path], None]) -> None:
    damage(root)
    found = faults(root)
    assert set(found) == set(CASES[damage])
    for where, pattern in CASES[damage].items():
        assert re.search(pattern, found[where][0]), found[where]


@pytest.mark.parametrize("name", ["x" * 300 + ".jpg", "a/" * 1100 + "x.jpg"])
def test_names_that_no_file_can_have_are_faults(root: Path, name: str) -> None:
    edit(annotations(root, "train"), lambda value: value["toy_train_000000"]["0"].update(image_1=name))
    (fault,) = faults(root)["ego4d/train, annotations"]
    assert "names too long for files" in fault


def test_half_a_character_is_one_fault(root: Path) -> None:
    edit(annotations(root, "train"), lambda value: value.update({"\udc80": value["toy_train_000000"]}))
    (fault,) = faults(root)["ego4d/train, annotations"]
    assert "holds half a character" in fault


def test_what_is_no_file_is_a_fault(root: Path) -> None:
    frame(root, "train", 0, "45").unlink()
    os.mkfifo(frame(root, "train", 0, "45"))
    assert "no such frame" in faults(root)["ego4d/train, frames present"][0]


@pytest.mark.parametrize(("width", "count"), [(70, 0), (72, 0), (69, 2), (73, 2)])
def test_a_width_may_be_rounded_either_way(root: Path, width: int, count: int) -> None:
    """The metadata's 71 x 40 asks for 71."""
    for name in ("30", "45"):
        frame(root, "train", 2, name).write_bytes(jpeg(width, 40) + name.encode())
    assert len(faults(root).get("ego4d/train, aspect ratio", [])) == count


def test_folders_of_links_are_what_they_lead_to(root: Path) -> None:
    layout = Layout(root, "ego4d")
    for folder in (layout.frames("train"), layout.frames("val"), layout.metric_targets):
        disk = folder.rename(root / folder.name)
        folder.mkdir()
        for clip in disk.iterdir():
            (folder / clip.name).symlink_to(clip)
    assert faults(root) == {}
    (layout.frames("val") / "toy_val_000000").unlink()
    (layout.frames("val") / "toy_val_000000").symlink_to("gone")
    (root / "train/notes.txt").write_text("x")
    (layout.frames("train") / "notes").symlink_to(root / "train/notes.txt")
    unfinished(root)
    found = faults(root)
    assert found["ego4d/val, extra files"] == ["toy_val_000000: no action names this file"]
    assert found["ego4d/train, extra files"] == ["notes: no action names this file"]
    assert len(found["all, leftover files"]) == 1


def test_a_folder_is_listed_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Actions that share a folder (a whole clip's, say) would else be checked in quadratic time."""
    listed: list[Path] = []
    real = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda path: listed.append(path) or real(path))
    edit(
        annotations(root, "train"),
        lambda value: value["toy_train_000003"].update(
            {f"{number}": value["toy_train_000003"]["0"] for number in range(1, 9)}
        ),
    )
    assert len(faults(root)["ego4d/train, same frames"]) == 8
    assert listed.count(frame(root, "train", 3, "30").parent) == 1


def shared(root: Path, target: str) -> None:
    """Adds an action to a clip that shares its input with the first, and its target if it is called so."""
    first = frame(root, "train", 3, "30").parent
    for old, new in (("30", "30"), ("45", target)):
        (first.parent / "1").mkdir(exist_ok=True)
        shutil.copy(first / f"frame_00000000{old}.jpg", first.parent / f"1/frame_00000000{new}.jpg")
    clip = first.parent.name
    names = {
        f"image_{slot}": f"{clip}/1/frame_00000000{name}.jpg" for slot, name in enumerate(("30", target))
    }
    edit(
        annotations(root, "train"), lambda value: value[clip].update({"1": names | {"action": "#C C sings"}})
    )


def test_actions_of_a_clip_may_share_a_frame(root: Path) -> None:
    shared(root, "46")
    Image.new("RGB", (71, 40), "red").save(
        frame(root, "train", 3, "30").parent.parent / "1/frame_0000000046.jpg"
    )
    assert faults(root) == {}


def test_actions_may_not_share_both_frames(root: Path) -> None:
    shared(root, "45")
    assert list(faults(root)) == ["ego4d/train, same frames"]


def test_only_the_first_ten_are_shown(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(14):
        (root / f"EgoGen/ego4d.fho/val/extra{number:02d}.jpg").write_bytes(bytes([number]))
    with pytest.raises(SystemExit) as ended:
        main([str(root), "--dataset", "ego4d", "--json", str(root / "report.json")])
    assert ended.value.code == 1
    shown = capsys.readouterr().out
    assert "extra09.jpg" in shown
    assert "extra10.jpg" not in shown
    assert "  and 4 more\n" in shown
    report = json.loads((root / "report.json").read_text())
    row = next(row for row in report["checks"] if row["split"] == "val" and row["check"] == "extra files")
    assert (row["faults"], len(row["examples"]), report["faults"]) == (14, 10, 14)


def test_frames_of_a_stated_height(root: Path) -> None:
    assert set(faults(root, height=256)) == {"ego4d/train, height", "ego4d/val, height"}


def test_one_split_alone_is_a_data_set(root: Path) -> None:
    annotations(root, "train").unlink()
    shutil.rmtree(root / "EgoGen/ego4d.fho/train")
    Layout(root, "ego4d").conversations.unlink()
    assert faults(root) == {}


def write_features(root: Path) -> Path:
    for split, count in (("train", 5), ("val", 3)):
        for number in range(count):
            for kind, tokens in (("llava_image", 256), ("llava_text", 3)):
                place = (
                    root / f"features/ego4d/{split}/{kind}/toy_{split}_{number:06d}/0/frame_0000000030.npy"
                )
                write_feature(place, np.ones((tokens, WIDTH)))
    return root / "features"


def test_features(root: Path) -> None:
    features = write_features(root)
    assert faults(root, features=features) == {}
    image, text = (
        features / f"ego4d/val/llava_{kind}/toy_val_000001/0/frame_0000000030.npy"
        for kind in ("image", "text")
    )
    write_feature(image, np.ones((256, WIDTH + 1)))
    text.write_bytes(text.read_bytes()[:-1])
    (features / "ego4d/train/llava_text/toy_train_000000/0/frame_0000000030.npy").unlink()
    found = faults(root, features=features)
    assert {where: len(each) for where, each in found.items()} == {
        "ego4d/val, image features": 1,
        "ego4d/val, text features": 1,
        "ego4d/train, text features": 1,
    }
    assert "are (256, 9), expected (256, 8)" in found["ego4d/val, image features"][0]
    assert "not a readable .npy" in found["ego4d/val, text features"][0]
    assert len(faults(root, features=features, width=16)["ego4d/train, image features"]) == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], r"nowhere: no data set of ours here; .*give the folder that holds EgoGen/"),
        (["{root}", "--features", "nowhere"], "nowhere: no such folder of features"),
        (["{root}", "--workers", "0"], "--workers 0: expected 1 or more"),
        (["{root}/EgoGen"], "no data set of ours here"),
    ],
)
def test_wrong_arguments(root: Path, arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        main([argument.format(root=root) for argument in arguments])


def test_what_cannot_be_checked(root: Path) -> None:
    for split in ("train", "val"):
        annotations(root, split).write_text("[]")
    with pytest.raises(UserError, match=r"no action can be read: .*expected an object of clips"):
        validate(ValidateOptions(root=root, dataset="ego4d"))
    for split in ("train", "val"):
        annotations(root, split).write_text("{}")
    with pytest.raises(UserError, match=r"no action can be read: ego4d_train\.json: holds no action"):
        validate(ValidateOptions(root=root, dataset="ego4d"))
    shutil.rmtree(root / "EgoGen/ego4d.fho")
    for split in ("train", "val"):
        annotations(root, split).unlink()
    with pytest.raises(UserError, match="no data set ego4d here"):
        validate(ValidateOptions(root=root, dataset="ego4d"))
    assert faults(root, "epickitchen") == {}
