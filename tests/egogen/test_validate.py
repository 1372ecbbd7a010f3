"""The whole check of a data set: what is sound, shared, linked or partial; features; wrong arguments."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from egogen.errors import UserError
from egogen.features import write_feature
from egogen.layout import Layout
from egogen.validate.__main__ import main
from egogen.validate.validate_options import ValidateOptions
from egogen.validate.whole import validate
from tests.egogen.damage import (
    annotations,
    edit,
    faults,
    frame,
    jpeg,
    unfinished,
)

WIDTH = 8


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


def test_links_that_lead_to_each_other_are_missing_frames(root: Path) -> None:
    folder = frame(root, "train", 0, "45").parent
    shutil.rmtree(folder)
    folder.symlink_to(folder.name)
    assert len(faults(root)["ego4d/train, frames present"]) == 2


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


def test_files_of_the_system_are_no_faults(root: Path) -> None:
    """As the metrics pass over them, which take the first other file of a folder for the frame before."""
    layout = Layout(root, "ego4d")
    for place in (layout.frames("train"), layout.frames("val"), layout.metric_targets):
        for path in list(place.rglob("*.jpg")):
            path.with_name(".DS_Store").touch()
            path.with_name(f"._{path.name}").write_bytes(b"\0\5\x16\7")
    assert faults(root) == {}


def test_a_folder_is_listed_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Actions that share a folder (a whole clip's, say) would else be checked in quadratic time."""
    listed: list[Path] = []
    real = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: listed.append(Path(path)) or real(path))
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
        (["{root}/EgoGen"], "no data set of ours here"),
        (["{root}", "--json", "{root}/EgoGen/ego4d_val.json"], "--json .*: lies in .*, which holds the data"),
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
