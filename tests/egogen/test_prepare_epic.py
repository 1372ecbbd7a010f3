"""EPIC-KITCHENS-100: the right frames from folders, tar files and videos; the real table; wrong tables."""

from __future__ import annotations

import csv
import json
import tarfile
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from egogen.annotations import Annotations, read_metadata
from egogen.errors import UserError
from egogen.layout import Layout
from egogen.prepare.__main__ import main
from egogen.prepare.epic.epic_file import (
    COLUMNS,
    TEST_COLUMNS,
    frame_number,
    frames_per_second,
    read_actions,
    read_video_info,
)
from egogen.prepare.frames.stills import FrameFiles
from egogen.prepare.pair_plan import UNREADABLE, Lost
from tests.egogen.raw_data import drawn, make_video, number_in
from tests.samples import EPIC, needs

needs_samples = needs(EPIC)


def row(
    number: int, video: str = "P01_11", start: str = "00:00:01.00", stop: str = "00:00:02.00", **changes: str
) -> dict[str, str]:
    """A row with the 15 true columns."""
    values = [
        f"{video}_{number}", video[:3], video, "", start, stop, "60", "120", f"throw paper {number}, in bin",
        "throw-into", "13", "paper", "49", "['paper', 'bin']", "[49, 36]",
    ]  # fmt: skip
    return dict(zip(COLUMNS, values, strict=True)) | changes


def write_table(path: Path, rows: list[dict[str, str]], columns: tuple[str, ...] = COLUMNS) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_frames(folder: Path, count: int = 130) -> Path:
    folder.mkdir(parents=True)
    for number in range(1, count + 1):
        drawn(number).save(folder / f"frame_{number:010d}.jpg", quality=95)
    return folder


def prepare(table: Path, out: Path, *more: str) -> Layout:
    main(["epic", "--csv", str(table), "--out", str(out), "--size", "48", "--workers", "1", *more])
    return Layout(out, "epickitchen")


def shown(layout: Layout, split: str = "val") -> dict[str, list[int]]:
    folder = layout.egogen / "epickitchen" / split
    items = Annotations.read(layout.egogen / f"epickitchen_{split}.json")
    return {
        item.id: [number_in(folder / name) for name in (item.action.image_0, item.action.image_1)]
        for item in items
    }


def decisions(layout: Layout) -> list[dict[str, Any]]:
    (path,) = layout.preparation.glob("*/manifest.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("form", ["folder", "tar", "tar with a folder"])
def test_numbered_frames(tmp_path: Path, form: str) -> None:
    frames = write_frames(tmp_path / "epic" / "P01" / "rgb_frames" / "P01_11")
    if form != "folder":
        with tarfile.open(frames.with_suffix(".tar"), "w") as tar:
            tar.add(frames, arcname="." if form == "tar" else "P01_11")
        for path in frames.iterdir():
            path.unlink()
        frames.rmdir()
    table = write_table(tmp_path / "EPIC_100_validation.csv", [row(0), row(1, start="00:00:00.00")])
    layout = prepare(table, tmp_path / "out", "--frames", str(tmp_path / "epic"))
    # 0.25 s before the start and after 0.6 of the action, at 60 Hz; nothing is before frame 1.
    assert shown(layout) == {"P01_11_0": [45, 96], "P01_11_1": [1, 72]}
    (item, _) = Annotations.read(layout.annotations("val"))
    assert item.action.action == "throw paper 0, in bin"
    assert item.action.image_0.endswith("frame_0000000045.jpg")
    clip = read_metadata(layout.metadata)["P01_11"]
    assert (clip.height, clip.width, clip.fps) == (48, 80, 60.0)
    assert clip.model_dump()["actions"]["P01_11_0"] == {"verb": "throw-into", "object": "paper"}


def test_extension_videos_have_frames_at_50_hz(tmp_path: Path) -> None:
    write_frames(tmp_path / "epic" / "P01_101")
    table = write_table(tmp_path / "EPIC_100_train.csv", [row(0, "P01_101")])
    layout = prepare(table, tmp_path / "out", "--frames", str(tmp_path / "epic"), "--after", "0.5")
    assert shown(layout, "train") == {"P01_101_0": [37, 75]}


@pytest.mark.parametrize(("rate", "expected"), [(Fraction(30000, 1001), [22, 47]), (Fraction(50), [37, 80])])
def test_videos_are_read_by_time(tmp_path: Path, rate: Fraction, expected: list[int]) -> None:
    make_video(tmp_path / "epic" / "P01" / "videos" / "P01_11.MP4", 100, rate=rate)
    table = write_table(tmp_path / "EPIC_100_validation.csv", [row(0)])
    layout = prepare(table, tmp_path / "out", "--videos", str(tmp_path / "epic"))
    # On screen at 0.75 s and at 1.6 s; named as the distributed frames of these times are.
    assert shown(layout) == {"P01_11_0": expected}
    (item,) = Annotations.read(layout.annotations("val"))
    assert item.action.image_0.endswith("frame_0000000045.jpg")
    assert item.action.image_1.endswith("frame_0000000096.jpg")


def test_true_sizes_from_the_video_table(tmp_path: Path) -> None:
    write_frames(tmp_path / "epic" / "P01_11")
    info = tmp_path / "info.csv"
    info.write_text("video_id,duration,fps,resolution\nP01_11,10.0,59.9400599400599,1920x1080\n")
    table = write_table(tmp_path / "EPIC_100_validation.csv", [row(0)])
    layout = prepare(table, tmp_path / "out", "--frames", str(tmp_path / "epic"), "--video-info", str(info))
    clip = read_metadata(layout.metadata)["P01_11"]
    assert (clip.height, clip.width, clip.fps) == (1080, 1920, 59.9400599400599)


def test_both_splits_share_a_folder(tmp_path: Path) -> None:
    for video in ("P01_11", "P02_03"):
        write_frames(tmp_path / "epic" / video)
    train = write_table(tmp_path / "EPIC_100_train.csv", [row(0)])
    val = write_table(tmp_path / "mine.csv", [row(0, "P02_03")])
    prepare(train, tmp_path / "out", "--frames", str(tmp_path / "epic"))
    layout = prepare(val, tmp_path / "out", "--frames", str(tmp_path / "epic"), "--split", "val")
    assert list(read_metadata(layout.metadata)) == ["P01_11", "P02_03"]
    assert (len(shown(layout, "train")), len(shown(layout))) == (1, 1)


def test_rows_that_make_no_pair(tmp_path: Path) -> None:
    frames = write_frames(tmp_path / "epic" / "P01_11")
    (frames / "frame_0000000045.jpg").unlink()
    (frames / "frame_0000000050.jpg").write_bytes(b"no image")
    write_frames(tmp_path / "epic" / "P01_101")
    rows = [
        row(0), row(1, narration=" "), row(2, stop="00:00:01.00"), row(3, "P09_01"),
        row(4, start="00:00:01.09"), row(5, start="00:00:01.50", stop="00:01:00.00"), row(6, "P01_101"),
        row(6, "P01_101"),
    ]  # fmt: skip
    table = write_table(tmp_path / "EPIC_100_validation.csv", rows)
    with pytest.raises(SystemExit) as stop:
        prepare(table, tmp_path / "out", "--frames", str(tmp_path / "epic"))
    assert stop.value.code == 12  # P09_01 is not there, P01_11 has a hole
    assert [found["reason"] for found in decisions(Layout(tmp_path / "out", "epickitchen"))] == [
        "frame damaged or missing",
        "no narration",
        "no duration",
        "source missing",
        "frame damaged or missing",
        "frame after the end of the source",
        None,
        "duplicate",
    ]


@pytest.mark.parametrize(
    ("named", "told"),
    [
        ("frame_{:06d}.jpg", "holds such as 'frame_000001.jpg'"),
        ("frame_{:010d}.png", "holds such as"),
        ("", "holds nothing"),
    ],
)
def test_frames_of_other_names_are_no_damaged_ones(tmp_path: Path, named: str, told: str) -> None:
    """What somebody cut a video into by `ffmpeg %06d.jpg`, or an empty folder."""
    folder = tmp_path / "epic" / "P01_11"
    folder.mkdir(parents=True)
    for number in range(1, 4) if named else ():
        drawn(number).save(folder / named.format(number))
    message = f"P01_11: {told}.*; expected frames named such as frame_0000000001.jpg"
    with pytest.raises(Lost, match=message) as lost, FrameFiles(folder, 60.0).open():
        pass
    assert lost.value.reason == UNREADABLE


def test_a_damaged_tar_file(tmp_path: Path) -> None:
    (tmp_path / "epic").mkdir()
    (tmp_path / "epic" / "P01_11.tar").write_bytes(b"no tar" * 200)
    table = write_table(tmp_path / "EPIC_100_validation.csv", [row(0)])
    with pytest.raises(SystemExit) as stop:
        prepare(table, tmp_path / "out", "--frames", str(tmp_path / "epic"))
    assert stop.value.code == 11
    assert decisions(Layout(tmp_path / "out", "epickitchen"))[0]["reason"] == "source unreadable"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            ",".join(COLUMNS[:-1]) + "\n",
            "lacks the columns all_noun_classes; found 'narration_id', 'participant_id'",
        ),
        ("", "lacks the columns narration_id, .*; found none"),
        (
            ",".join(TEST_COLUMNS) + "\n",
            "time stamps of EPIC's test set, which has no labels; use EPIC_100_train",
        ),
        (",".join(COLUMNS) + "\nP01_11_0,P01\n", "line 2: expected 15 fields"),
        (
            ",".join(COLUMNS) + "\n" + ",".join(row(0, start="soon", narration="x").values()) + ",\n",
            "line 2 has more fields",
        ),
    ],
)
def test_wrong_tables(tmp_path: Path, content: str, message: str) -> None:
    table = tmp_path / "EPIC_100_validation.csv"
    table.write_text(content)
    with pytest.raises(UserError, match=message):
        prepare(table, tmp_path / "out", "--frames", str(tmp_path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"start_timestamp": "1.5"}, r"line 2, field 'start_timestamp': found '1\.5': expected HH:MM:SS\.ss"),
        (
            {"video_id": "kitchen"},
            "field 'video_id': found 'kitchen': expected a form such as P01_11",
        ),
    ],
)
def test_wrong_rows(tmp_path: Path, changes: dict[str, str], message: str) -> None:
    table = write_table(tmp_path / "EPIC_100_validation.csv", [row(0, **changes)])
    with pytest.raises(UserError, match=message):
        prepare(table, tmp_path / "out", "--frames", str(tmp_path))


def test_wrong_arguments(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = write_table(tmp_path / "mine.csv", [row(0)])
    with pytest.raises(
        UserError, match="its name does not tell the split; give --split train or --split val"
    ):
        prepare(table, tmp_path / "out", "--frames", str(tmp_path))
    with pytest.raises(UserError, match=r"none\.csv: cannot be read"):
        prepare(tmp_path / "none.csv", tmp_path / "out", "--frames", str(tmp_path), "--split", "val")
    with pytest.raises(SystemExit):
        prepare(table, tmp_path / "out", "--frames", str(tmp_path), "--before", "-1")
    assert "'-1': expected a number, 0 or more" in capsys.readouterr().err
    bad = tmp_path / "info.csv"
    bad.write_text("video_id,duration,fps,resolution\nP01_11,10.0,fast,1920\n")
    with pytest.raises(UserError, match="line 2: found fps 'fast', resolution '1920'; expected such as"):
        read_video_info(bad)


@needs_samples
def test_real_rows_are_read_without_loss() -> None:
    path = EPIC / "EPIC_100_validation_first400.csv"
    actions = list(read_actions(path))
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(actions) == len(rows) == 400
    for action, raw in zip(actions, rows, strict=True):
        assert (action.id, action.narration, action.verb) == (
            raw["narration_id"],
            raw["narration"],
            raw["verb"],
        )
        rate = frames_per_second(action.video)
        for time, number in ((action.start, "start_frame"), (action.stop, "stop_frame")):
            assert abs(frame_number(time, rate) - int(raw[number])) <= 1
    videos = read_video_info(EPIC / "EPIC_100_video_info.csv")
    assert len(videos) == 700
    assert {action.video for action in actions} <= set(videos)


@needs_samples
def test_real_rows_are_planned(tmp_path: Path) -> None:
    path = EPIC / "EPIC_100_validation_first400.csv"
    (tmp_path / "frames").mkdir()
    prepare(path, tmp_path / "out", "--frames", str(tmp_path / "frames"), "--split", "val", "--dry-run")
    assert not (tmp_path / "out").exists()
