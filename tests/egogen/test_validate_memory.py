"""Checking a split of which the actions stay in their file: what it finds, and what it holds."""

from __future__ import annotations

import hashlib
import json
import tracemalloc
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from egogen import json_stream, stored_items
from egogen.layout import Layout
from egogen.validate import frame_files
from egogen.validate.checks import check_frames
from egogen.validate.frame_files import Probe, SplitFrames
from egogen.validate.text_checks import read_annotations
from egogen.validate.validate_options import ValidateOptions
from egogen.validate.whole import validate

CLIPS = 8
A_CLIP = 50  # actions, whose frames are in one folder
NO_ACTIONS: list[object] = [None, 5, "}", [], {"}": {"}": "}"}}, {"image_0": "../x.jpg"}]


def make_split(root: Path, clips: int) -> Layout:
    """A val split whose clips are links to one."""
    layout = Layout(root, "ego4d")
    layout.frames("val").mkdir(parents=True)
    folder = root / "clip"
    folder.mkdir()
    for number in range(2 * A_CLIP):
        (folder / f"{number}.jpg").touch()
    raw = {}
    for clip in range(clips):
        (layout.frames("val") / f"c{clip}").symlink_to(folder)
        raw[f"c{clip}"] = {
            f"{number}": {
                "image_0": f"c{clip}/{number}.jpg",
                "image_1": f"c{clip}/{number + A_CLIP}.jpg",
                "action": f"#C C picks up tool {number}",
            }
            for number in range(A_CLIP)
        }
    layout.annotations("val").write_text(json.dumps(raw))
    return layout


def stand_in(path: Path | str) -> Probe:
    return Probe((64, 48), hashlib.sha256(f"{path}".encode()).digest(), None)


def test_an_action_takes_a_small_part_of_the_memory(tmp_path: Path) -> None:
    layout, count = make_split(tmp_path, CLIPS), CLIPS * A_CLIP

    def taken(large: int) -> tuple[int, int]:
        with (
            mock.patch.object(stored_items, "LARGE", large),
            mock.patch.object(json_stream, "BLOCK", 1 << 14),
            mock.patch.object(frame_files, "AT_ONCE", 256),
            mock.patch.object(frame_files, "probe", stand_in),
        ):
            tracemalloc.start()
            try:
                frames = SplitFrames(layout, "val", read_annotations(layout, "val"), 2)
                held, _ = tracemalloc.get_traced_memory()
                checks = {
                    check.name: (check.items, len(check.faults)) for check in check_frames(frames, {}, 48)
                }
                most = tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()
        assert checks["frames present"] == checks["extra files"] == checks["height"] == (2 * count, 0)
        assert checks["same frames"] == checks["same label and frame"] == (count, 0)
        # Of each folder one input alone is the first; no target for the metrics is there.
        assert checks["input sorts first"] == (count, count - CLIPS)
        assert checks["metric targets"] == (count, count)
        return held, most

    (listed, _), (held, most) = taken(1 << 40), taken(-1)
    assert held < count * 250  # bytes, two frames each
    assert listed > 3 * held
    assert most < listed  # with two faults each, in words


@pytest.mark.parametrize("seed", range(5))
def test_entries_that_are_no_actions_change_nothing_beside_them(tmp_path: Path, seed: int) -> None:
    """The same report of actions in memory and of those left in their file."""
    layout, chance = make_split(tmp_path, 4), np.random.default_rng(seed)
    raw = json.loads(layout.annotations("val").read_text())
    for clip in list(raw):
        entries = list(raw[clip].items())
        for place, number in enumerate(chance.integers(len(entries), size=chance.integers(6))):
            entries.insert(number, (f"bad {place}", NO_ACTIONS[chance.integers(len(NO_ACTIONS))]))
        raw[clip] = dict(entries)
    raw["c1"] = raw["c1"] if seed else []  # then it is read as a whole
    layout.annotations("val").write_text(json.dumps(raw, indent=seed or None))

    def report(large: int) -> list[object]:
        with mock.patch.object(stored_items, "LARGE", large):
            return [vars(check) for check in validate(ValidateOptions(root=tmp_path, workers=1)).checks]

    found = report(-1)
    assert found == report(1 << 40)
    assert found[0]["faults"] or not seed  # type: ignore[index]
