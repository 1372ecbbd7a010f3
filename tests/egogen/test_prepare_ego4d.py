"""Ego4D: which actions make pairs and which frames they get, from clips, full videos and older files."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egogen.annotations import Annotations, read_metadata
from egogen.errors import UserError
from egogen.layout import Layout, metric_target_path
from egogen.prepare.__main__ import main
from egogen.prepare.ego4d.ego4d_file import LISTS, raw_videos
from egogen.prepare.ego4d.ego4d_pairs import CORRUPT
from egogen.prepare.outputs import to_size
from egogen.prepare.pair_plan import DUPLICATE
from tests.egogen.raw_data import Ego4D, action, critical, make_video, number_in

NO_PRE_15 = {**critical(45, 60), "pre_15": None}
# What is wrong with an action -> the reason that is counted.
FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"is_rejected": True}, "rejected"),
    ({"is_invalid_annotation": True}, "invalid annotation"),
    ({"is_valid_action": False}, "not a valid action"),
    ({"stage": None}, "no stage"),
    ({"narration_text": ""}, "no narration"),
    ({"narration_text": None}, "no narration"),
    ({"narration_text": "#C C holds the #Unsure"}, "unsure narration"),
    ({"narration_text": "#O A man X walks"}, "not the camera wearer"),
    ({"narration_text": "cuts the carrot"}, "not the camera wearer"),
    ({"critical_frames": None, "clip_critical_frames": None}, "no critical frames"),
    ({"clip_critical_frames": NO_PRE_15}, "no pre_15 frame"),
    ({"clip_critical_frames": {**critical(45, 60), "pnr_frame": None}}, "no pnr_frame"),
    ({"clip_critical_frames": critical(10, 60)}, "frame before the start of the source"),
    ({"clip_critical_frames": critical(75, 60)}, "input frame not before the target"),
    ({"clip_critical_frames": critical(300, 320)}, "frame after the end of the source"),
    ({"uid": "a/b", "narration_annotation_uid": "../c"}, None),
]  # fmt: skip


@pytest.fixture
def source(tmp_path: Path) -> Ego4D:
    return Ego4D(tmp_path / "ego4d")


def prepare(source: Ego4D, out: Path, *more: str) -> Layout:
    source.write()
    main(["ego4d", *source.words(out, *more)])
    return Layout(out, "ego4d")


def decisions(layout: Layout) -> list[dict[str, Any]]:
    (path,) = layout.preparation.glob("*/manifest.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def shown(layout: Layout, split: str) -> dict[str, list[int]]:
    """Which frames the pairs of a split show, by action id."""
    folder = layout.egogen / "ego4d.fho" / split
    items = Annotations.read(layout.egogen / f"ego4d_{split}.json")
    return {
        item.id: [number_in(folder / name) for name in (item.action.image_0, item.action.image_1)]
        for item in items
    }


def test_the_frames_of_clips(source: Ego4D, tmp_path: Path) -> None:
    source.add("a", "train", [action(number) for number in (0, 3, 7)])
    source.add("b", "val", [action(1)])
    for name in "ab":
        make_video(source.clips / f"clip-{name}.mp4")
    layout = prepare(source, tmp_path / "out")
    assert shown(layout, "train") == {"uid-0": [30, 60], "uid-3": [33, 63], "uid-7": [37, 67]}
    assert shown(layout, "val") == {"uid-1": [31, 61]}
    (item,) = Annotations.read(layout.annotations("val"))
    assert (item.clip, item.action.action) == ("clip-b", "#C C cuts the carrot 1")
    first, second = (layout.frames("val") / name for name in (item.action.image_0, item.action.image_1))
    assert sorted(first.parent.iterdir()) == [first, second]
    assert first.name == "frame_0000000031.jpg"
    target = metric_target_path(layout.metric_targets, item.action.image_1)
    assert target.read_bytes() == second.read_bytes()
    assert len(list(layout.metric_targets.rglob("*.jpg"))) == 1


def test_the_manifest_tells_times_hashes_and_sources(source: Ego4D, tmp_path: Path) -> None:
    source.add("a", "train", [action(0)])
    path = make_video(source.clips / "clip-a.mp4")
    layout = prepare(source, tmp_path / "out")
    (row,) = decisions(layout)
    assert row["kept"]
    assert (row["source_0"], row["seconds_0"], row["pts_0"], row["number_1"]) == (str(path), 1.0, 15360, 60)
    assert row["seconds_1"] == 2.0
    assert len(row["sha256_0"]) == 64


def test_metadata_are_sizes_and_boxes_in_pixels_of_the_video(source: Ego4D, tmp_path: Path) -> None:
    source.add("a", "train", [action(0)])
    make_video(source.clips / "clip-a.mp4")
    clip = read_metadata(prepare(source, tmp_path / "out").metadata)["clip-a"]
    assert (clip.height, clip.width, clip.fps) == (48, 80, 30.0)
    facts = clip.model_dump()["actions"]["uid-0"]
    # Drawn in frames of 160 x 96.
    box = {"x": 5.0, "y": 10.0, "width": 8.0, "height": 6.0}
    boxes = [f"{kind}_box_{slot}" for kind in ("left_hand", "object") for slot in (0, 1)]
    assert {name: facts[name] for name in boxes} == dict.fromkeys(boxes, box)
    assert (facts["verb"], facts["object"]) == ("cut_(trim,_slice,_chop)", "carrot")
    assert not [name for name in facts if "right" in name or "tool" in name]


def test_full_videos_are_counted_from_their_own_start(source: Ego4D, tmp_path: Path) -> None:
    source.add("a", "train", [action(0, start=20)])
    source.write()
    make_video(source.full / "some" / "video-a.mp4", 120)
    main(
        [
            "ego4d",
            "--annotations",
            str(source.annotations),
            "--videos",
            str(source.full),
            "--out",
            str(tmp_path),
        ]
    )
    assert shown(Layout(tmp_path, "ego4d"), "train") == {"uid-0": [50, 80]}


@pytest.mark.parametrize(("changes", "reason"), FAULTS)
def test_actions_that_make_no_pair(
    source: Ego4D, tmp_path: Path, changes: dict[str, Any], reason: str | None
) -> None:
    source.add("a", "train", [action(0, **changes), action(1)])
    make_video(source.clips / "clip-a.mp4")
    first, second = decisions(prepare(source, tmp_path / "out"))
    assert second["kept"]
    assert first["reason"] == (reason or "id is no file name")
    assert list(shown(Layout(tmp_path / "out", "ego4d"), "train")) == ["uid-1"]


def test_clips_that_make_no_pair(source: Ego4D, tmp_path: Path) -> None:
    source.add("a", "train", [action(0)])
    source.add("b", "train", [action(0)], redacted=True)
    source.add("c", None, [action(0)])
    source.add("d", "train", [action(0)], clip_uid=None)
    source.add("e", "train", [action(0)])
    source.splits["val"].append("clip-e")
    for name in "abcde":
        make_video(source.clips / f"clip-{name}.mp4", 70)
    layout = prepare(source, tmp_path / "out")
    reasons = ["kept", "redacted", "in no split", "no clip uid", "in both splits"]
    assert [row["reason"] or "kept" for row in decisions(layout)] == reasons


def test_the_same_narration_in_the_same_window_counts_once(source: Ego4D, tmp_path: Path) -> None:
    again = action(1, uid="again", narration_annotation_uid="narration-0", start_sec=1.0, end_sec=9.0)
    moved = action(2, uid="uid-0", narration_annotation_uid="narration-0", start_sec=1.5, end_sec=9.5)
    source.add("a", "train", [action(0, is_rejected=True), action(0), again, moved])
    make_video(source.clips / "clip-a.mp4")
    layout = prepare(source, tmp_path / "out")
    assert [row["reason"] for row in decisions(layout)] == ["rejected", None, DUPLICATE, None]
    # Its uid is taken, so it gets the benchmarks' name.
    assert shown(layout, "train") == {"uid-0": [30, 60], "narration-0-1_5-9_5": [32, 62]}


def test_actions_without_uids_in_several_intervals_of_a_clip(source: Ego4D, tmp_path: Path) -> None:
    unnamed = [action(number, uid=None, narration_annotation_uid=None) for number in range(3)]
    source.add("a", "train", unnamed[:2])
    source.add("b", "train", [unnamed[2], action(3, uid=17)], clip_uid="clip-a")
    make_video(source.clips / "clip-a.mp4")
    layout = prepare(source, tmp_path / "out")
    assert shown(layout, "train") == {"0": [30, 60], "1": [31, 61], "2": [32, 62], "17": [33, 63]}


@pytest.mark.parametrize("side", [None, "1", True, -2])
def test_a_box_without_its_numbers_is_left_out(source: Ego4D, tmp_path: Path, side: object) -> None:
    box = {"object_type": "left_hand", "bbox": {"x": 1, "y": 1, "width": side, "height": 3}}
    source.add("a", "train", [action(0, frames=[{"frame_type": "pre_15", "boxes": [box]}])])
    make_video(source.clips / "clip-a.mp4")
    clip = read_metadata(prepare(source, tmp_path / "out").metadata)["clip-a"]
    assert clip.facts("uid-0") == {"verb": "cut_(trim,_slice,_chop)"}


def test_known_corrupt_actions_and_short_windows(source: Ego4D, tmp_path: Path) -> None:
    narration, start, end = sorted(CORRUPT)[0]
    corrupt = action(0, narration_annotation_uid=narration, start_sec=start, end_sec=end)
    source.add("a", "train", [corrupt, action(1, end_sec=5.0), action(2)])
    make_video(source.clips / "clip-a.mp4")
    assert [row["reason"] for row in decisions(prepare(source, tmp_path / "1"))] == [
        "known to be corrupt",
        None,
        None,
    ]
    strict = decisions(prepare(source, tmp_path / "2", "--min-window", "8"))
    assert strict[1]["reason"] == "window shorter than 8 s"
    assert strict[2]["kept"]


def test_other_critical_frames(source: Ego4D, tmp_path: Path) -> None:
    source.add("a", "train", [action(0)])
    make_video(source.clips / "clip-a.mp4")
    layout = prepare(source, tmp_path / "out", "--input", "pre_45", "--target", "post_frame")
    assert shown(layout, "train") == {"uid-0": [0, 66]}


def test_a_name_that_is_no_critical_frame(
    source: Ego4D, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["ego4d", *source.words(tmp_path, "--input", "pre_16")])
    assert stop.value.code == 2
    assert "invalid choice: 'pre_16' (choose from" in capsys.readouterr().err


def older_names(found: Any) -> Any:
    """A v2 file's content under the names of older files."""
    if isinstance(found, list):
        return [older_names(part) for part in found]
    if not isinstance(found, dict):
        return found
    frames = found.get("critical_frames")
    made = {name: older_names(value) for name, value in found.items() if name != "clip_critical_frames"}
    if frames is not None:
        made["critical_frames"] = {f"parent_{name}": number for name, number in frames.items()}
    for name in ("start_sec", "end_sec"):
        if "narration_text" in found:
            made[f"parent_{name}"] = made.pop(name)
    return made


@pytest.mark.parametrize("where", ["clips", "full"])
def test_a_v1_file_with_older_names(source: Ego4D, tmp_path: Path, where: str) -> None:
    source.add("a", "train", [action(0, start=20)], clip_parent_start_frame=20)
    source.write()
    path = source.annotations / "fho_main.json"
    videos = {video.pop("video_uid"): older_names(video) for video in json.loads(path.read_text())["videos"]}
    path.unlink()
    (source.annotations / "fho.json").write_text(json.dumps({"video_data": videos, "canonical_version": 1}))
    make_video(source.clips / "clip-a.mp4")
    make_video(source.full / "video-a.mp4", 120)
    flag = {"clips": "--clips", "full": "--videos"}[where]
    main(["ego4d", "--annotations", str(source.annotations), flag, str(getattr(source, where)),
          "--out", str(tmp_path), "--split-from", "oscc-pnr"])  # fmt: skip
    expected = {"clips": [30, 60], "full": [50, 80]}[where]
    assert list(shown(Layout(tmp_path, "ego4d"), "train").values()) == [expected]


def test_of_many_actions_none_is_lost(source: Ego4D, tmp_path: Path) -> None:
    faults = [action(number, **changes) for number, (changes, _) in enumerate(FAULTS)]
    source.add("a", "train", [*faults, *(action(20 + number) for number in range(5))])
    make_video(source.clips / "clip-a.mp4")
    counts = Counter(row["reason"] for row in decisions(prepare(source, tmp_path / "out")))
    assert counts[None] == 5
    assert counts.total() == len(FAULTS) + 5


def drop_videos(path: Path) -> None:
    path.write_text(json.dumps({"clips": []}))


def no_intervals(path: Path) -> None:
    path.write_text(json.dumps({"videos": [{"video_uid": "v"}]}))


def odd_actions(path: Path) -> None:
    odd = {"video_uid": "v", "annotated_intervals": [{"narrated_actions": [3]}]}
    path.write_text(json.dumps({"videos": [{"video_uid": "u", "annotated_intervals": []}, odd]}))


BAD: list[tuple[str, Callable[[Path], object], str]] = [
    ("fho_main.json", Path.unlink, "holds neither fho_main.json nor fho.json"),
    ("fho_main.json", lambda path: path.write_text('{"videos": ['), r"fho_main\.json: not valid JSON"),
    ("fho_main.json", drop_videos, r"found the keys clips, expected videos \(v2\) or video_data \(v1\)"),
    ("fho_main.json", no_intervals, r"video 0 is not as in fho_main\.json or fho\.json \(KeyError\('annot"),
    ("fho_main.json", odd_actions, r"video 1 is not as in fho_main\.json or fho\.json \("),
    ("fho_lta_val.json", Path.unlink, r"fho_lta_val\.json: no such file"),
    ("fho_lta_val.json", lambda path: path.write_text("{}"), "expected an object with a list of 'clips'"),
]  # fmt: skip


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text("videosl.tm"), inner),
    max_leaves=20,
)  # fmt: skip


@given(st.lists(VALUES), st.booleans(), st.sampled_from([None, 2]), st.sampled_from(["utf-8", "utf-8-sig"]))
def test_videos_one_by_one_are_those_of_the_whole(
    tmp_path_factory: pytest.TempPathFactory, values: list[Any], v1: bool, indent: int | None, encoding: str
) -> None:
    path = tmp_path_factory.mktemp("v") / "fho.json"
    expected = [(f"u{number}" if v1 else None, value) for number, value in enumerate(values)]
    whole = {"date": "x", "clips": [{"videos": [3]}], LISTS[v1]: dict(expected) if v1 else values, "z": {}}
    path.write_text(json.dumps(whole, indent=indent), encoding=encoding)
    assert list(raw_videos(path)) == expected


@pytest.mark.parametrize(
    "text", ["", '{"videos": [NaN]}', '{"videos": [1', '{"videos": [1 2]}', '{"videos" 1}',
             '{"videos": [1,]}', '{"videos": ["a]}', '{"videos": [1]',
             '{"videos": [1], 3}', "\xff", '{"videos": ["\xff"]}'],
)  # fmt: skip
def test_what_is_no_json_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "fho.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=r"fho\.json: not valid JSON \(.*\); is it cut off") as caught:
        list(raw_videos(tmp_path / "fho.json"))
    assert "\n" not in str(caught.value)


def test_videos_that_are_no_list_are_named(tmp_path: Path) -> None:
    (tmp_path / "fho.json").write_text('{"videos": 3}')
    with pytest.raises(UserError, match="videos is number, expected a list"):
        list(raw_videos(tmp_path / "fho.json"))


@pytest.mark.parametrize(("name", "spoil", "message"), BAD)
def test_bad_annotation_files(
    source: Ego4D, tmp_path: Path, name: str, spoil: Callable[[Path], object], message: str
) -> None:
    source.add("a", "train", [action(0)])
    source.write()
    source.clips.mkdir()
    spoil(source.annotations / name)
    with pytest.raises(UserError, match=message):
        main(["ego4d", *source.words(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_no_folder_of_clips(source: Ego4D, tmp_path: Path) -> None:
    source.add("a", "train", [action(0)])
    with pytest.raises(UserError, match="clips: no such folder"):
        prepare(source, tmp_path / "out")
    source.clips.touch()
    with pytest.raises(UserError, match="clips: is a file, expected a folder"):
        prepare(source, tmp_path / "out")


@pytest.mark.parametrize("seconds", ["nan", "-1", "inf"])
def test_a_window_that_is_none(source: Ego4D, tmp_path: Path, seconds: str) -> None:
    """A window of `nan` would leave nothing out, and say nothing."""
    source.add("a", "train", [action(0)])
    with pytest.raises(UserError, match=r"--min-window: got .*, allowed: seconds, 0 or more"):
        prepare(source, tmp_path / "out", "--min-window", seconds)


def test_boxes_follow_the_size_of_frames_in_both_directions() -> None:
    box = {"x": 10.0, "y": 20.0, "width": 16.0, "height": 12.0}
    assert to_size(box, (160, 96), (80, 24)) == {"x": 5, "y": 5, "width": 8, "height": 3}
    assert to_size(box, None, (80, 24)) == box
    assert to_size("cut", (160, 96), (80, 24)) == "cut"
