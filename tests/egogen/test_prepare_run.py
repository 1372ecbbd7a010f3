"""Runs of `egogen.prepare`: resuming, refusing, counting what is broken, choosing sharp frames, reporting."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter

from egogen.annotations import Annotations
from egogen.errors import UserError
from egogen.files import read_json
from egogen.layout import Layout
from egogen.prepare.__main__ import main
from egogen.prepare.frames.extract import sharpness
from egogen.record import ROOT
from tests.egogen.raw_data import Ego4D, action, critical, drawn, grainy, make_video, number_in


@pytest.fixture
def source(tmp_path: Path) -> Ego4D:
    """Two clips of three actions, train and val."""
    made = Ego4D(tmp_path / "ego4d")
    for name, split in (("a", "train"), ("b", "val")):
        made.add(name, split, [action(number) for number in range(3)])
        make_video(made.clips / f"clip-{name}.mp4")
    made.write()
    return made


def prepare(source: Ego4D, out: Path, *more: str) -> Layout:
    main(["ego4d", *source.words(out, *more)])
    return Layout(out, "ego4d")


def files(root: Path) -> dict[str, tuple[bytes, int]]:
    """What lies below a folder, with the times at which it was written."""
    return {
        str(path.relative_to(root)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in root.rglob("*")
        if path.is_file()
    }


def frames(layout: Layout) -> dict[str, tuple[bytes, int]]:
    return files(layout.egogen / "ego4d.fho")


def decisions(layout: Layout) -> list[dict[str, Any]]:
    (path,) = layout.preparation.glob("*/manifest.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def report(layout: Layout) -> str:
    (path,) = layout.preparation.glob("*/report.md")
    return path.read_text()


def test_a_finished_run_is_left_and_a_hole_is_filled(source: Ego4D, tmp_path: Path) -> None:
    layout = prepare(source, tmp_path / "out")
    before = frames(layout)
    prepare(source, tmp_path / "out")
    assert frames(layout) == before
    lost = next(layout.frames("val").rglob("*61.jpg"))
    for size in (None, 0, 500):
        lost.unlink() if size is None else os.truncate(lost, size)
        prepare(source, tmp_path / "out")
    after = frames(layout)
    assert {name: content for name, (content, _) in after.items()} == {
        name: content for name, (content, _) in before.items()
    }
    again = {name for name in after if after[name] != before[name]}
    assert again == {name for name in before if "clip-b/uid-1/" in name}


def test_videos_may_come_and_go(source: Ego4D, tmp_path: Path) -> None:
    kept = source.clips / "clip-b.mp4"
    kept.rename(tmp_path / "clip-b.mp4")
    with pytest.raises(SystemExit) as stop:
        prepare(source, tmp_path / "out")
    assert stop.value.code == 11
    (tmp_path / "clip-b.mp4").rename(kept)
    (source.clips / "clip-a.mp4").unlink()
    layout = prepare(source, tmp_path / "out")
    for split in ("train", "val"):
        assert len(Annotations.read(layout.egogen / f"ego4d_{split}.json")) == 3
    assert [row["kept"] for row in decisions(layout)] == [True] * 6


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path) -> None:
    source, count = Ego4D(tmp_path / "ego4d"), 300
    source.add("a", "train", [action(number) for number in range(count)])
    make_video(source.clips / "clip-a.mp4", [drawn(number, 160, 96) for number in range(count + 70)])
    source.write()
    layout = Layout(tmp_path / "out", "ego4d")
    words = [sys.executable, "-m", "egogen.prepare", "ego4d", *source.words(tmp_path / "out")]
    process = subprocess.Popen(words, cwd=ROOT, stderr=subprocess.DEVNULL)
    journal = layout.preparation / "ego4d_train_val" / "journals" / "clip-a.jsonl"
    deadline = time.monotonic() + 60
    while not journal.exists() or journal.read_bytes().count(b"\n") < 20:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(0.2)
    done = journal.read_bytes().count(b"\n")
    time.sleep(0.3)
    assert journal.read_bytes().count(b"\n") == done < count, "processes outlive the one that was killed"
    before = frames(layout)
    assert not layout.annotations("train").exists()
    with journal.open("a") as file:  # as if the kill had come within a line
        file.write('{"clip": "clip-a", "id"')
    main(["ego4d", *source.words(tmp_path / "out")])
    after = frames(layout)
    finished = [name for name in before if int(name.split("uid-")[1].split("/")[0]) < done]
    assert len(finished) == 2 * done
    assert all(after[name] == before[name] for name in finished)
    assert len(after) == 2 * count  # nothing half written is left
    for item in list(Annotations.read(layout.annotations("train")))[::37]:
        number = int(item.id.removeprefix("uid-"))
        names = item.action.image_0, item.action.image_1
        assert [number_in(layout.frames("train") / name) for name in names] == [30 + number, 60 + number]


def test_other_settings_are_refused(source: Ego4D, tmp_path: Path) -> None:
    prepare(source, tmp_path / "out")
    with pytest.raises(UserError, match="made with quality = 95, this run has 80; choose another output"):
        prepare(source, tmp_path / "out", "--quality", "80")
    prepare(source, tmp_path / "out", "--workers", "2")
    (source.annotations / "fho_lta_val.json").write_text('{"clips": []}')
    with pytest.raises(UserError, match="made with val_clips of another content"):
        prepare(source, tmp_path / "out")


def test_data_of_others_are_not_overwritten(source: Ego4D, tmp_path: Path) -> None:
    path = Layout(tmp_path, "ego4d").annotations("train")
    path.parent.mkdir()
    path.write_text("{}")
    with pytest.raises(UserError, match=r"ego4d_train\.json: was not made by egogen\.prepare; choose ano"):
        prepare(source, tmp_path)
    assert path.read_text() == "{}"


def test_processes_change_nothing(source: Ego4D, tmp_path: Path) -> None:
    one, two = (prepare(source, tmp_path / workers, "--workers", workers) for workers in "12")
    assert {name: content for name, (content, _) in frames(one).items()} == {
        name: content for name, (content, _) in frames(two).items()
    }
    assert one.annotations("val").read_bytes() == two.annotations("val").read_bytes()


def test_shards_of_the_sources_give_the_same(source: Ego4D, tmp_path: Path) -> None:
    """By number, then joined; claimed; and with a broken source, whose reason the joining run finds too."""
    whole = prepare(source, tmp_path / "whole")
    parts = tmp_path / "parts"
    for shard in ("2/2", "1/2"):
        layout = prepare(source, parts, "--shard", shard)
        assert not layout.annotations("val").exists()
    assert {name.split("/")[1] for name in frames(layout)} == {"clip-a", "clip-b"}
    made = frames(layout)
    prepare(source, parts)
    claimed = prepare(source, tmp_path / "claimed", "--shard", "auto/3")
    for other in (layout, claimed):
        assert contents(other) == contents(whole)
        assert decisions(other) == decisions(whole)
        for split in ("train", "val"):
            assert other.annotations(split).read_bytes() == whole.annotations(split).read_bytes()
    assert all(frames(layout)[name] == made[name] for name in made if "val_gt" not in name)  # none made twice
    (source.clips / "clip-a.mp4").write_bytes(b"no video")
    with pytest.raises(SystemExit) as stop:
        prepare(source, tmp_path / "broken", "--shard", "auto/2")
    assert stop.value.code == 11
    assert len(Annotations.read(Layout(tmp_path / "broken", "ego4d").annotations("val"))) == 3


def contents(layout: Layout) -> dict[str, bytes]:
    """The frames, whenever they were made."""
    return {name: content for name, (content, _) in frames(layout).items()}


def test_a_smaller_limit_takes_nothing_away(source: Ego4D, tmp_path: Path) -> None:
    prepare(source, tmp_path, "--limit", "3")
    layout = prepare(source, tmp_path, "--limit", "1")
    written = [read_json(layout.annotations(split)) for split in ("train", "val")]
    named = sum(len(actions) for clips in written for actions in clips.values())
    on_disk = sum(len(list(layout.frames(split).rglob("*.jpg"))) for split in ("train", "val"))
    assert named == 3
    assert on_disk == 2 * named


def test_limits_can_be_raised(source: Ego4D, tmp_path: Path) -> None:
    layout = prepare(source, tmp_path, "--limit", "2")
    before = frames(layout)
    assert len(before) == 4
    prepare(source, tmp_path)
    assert before.items() <= frames(layout).items()
    assert len(decisions(layout)) == 6


def test_a_dry_run_counts_and_writes_nothing(
    source: Ego4D, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    (source.clips / "clip-b.mp4").unlink()
    prepare(source, tmp_path / "out", "--dry-run")
    assert not (tmp_path / "out").exists()
    assert "| kept                     |     3 |   0 |   3 |" in caplog.text
    assert "| left out: source missing |     0 |   3 |   3 |" in caplog.text
    assert "3 pairs of 1 sources: 6 JPEG files, about 0.00 GB; nothing was written" in caplog.text


def test_broken_sources_are_counted_named_and_tried_again(source: Ego4D, tmp_path: Path) -> None:
    whole = {}
    for name in "cde":
        source.add(name, "train", [action(0, clip_critical_frames=critical(30, 40)), action(9)])
        whole[name] = make_video(
            source.clips / f"clip-{name}.mp4", grainy(90), container={"movflags": "faststart"}
        ).read_bytes()
    source.write()
    (source.clips / "clip-c.mp4").unlink()
    (source.clips / "clip-d.mp4").write_bytes(b"junk")
    # Up to somewhere behind frame 40.
    (source.clips / "clip-e.mp4").write_bytes(whole["e"][: len(whole["e"]) * 3 // 5])
    with pytest.raises(SystemExit) as stop:
        prepare(source, tmp_path / "out")
    assert stop.value.code == 13
    layout = Layout(tmp_path / "out", "ego4d")
    reasons = {(row["clip"], row["id"]): row["reason"] for row in decisions(layout)}
    assert reasons["clip-c", "uid-0"] == reasons["clip-c", "uid-9"] == "source missing"
    assert reasons["clip-d", "uid-0"] == reasons["clip-d", "uid-9"] == "source unreadable"
    assert (reasons["clip-e", "uid-0"], reasons["clip-e", "uid-9"]) == (
        None,
        "source cut off before the frame",
    )
    assert reasons["clip-a", "uid-0"] is None
    text = report(layout)
    assert "## Missing or broken" in text
    assert f"- `{source.clips / 'clip-c.mp4'}`: source missing, 2 actions" in text
    for name, content in whole.items():
        (source.clips / f"clip-{name}.mp4").write_bytes(content)
    prepare(source, tmp_path / "out")
    assert all(row["kept"] for row in decisions(layout))
    assert "Missing or broken" not in report(layout)


def test_the_sharpest_frame_nearby_is_taken(tmp_path: Path) -> None:
    source = Ego4D(tmp_path / "ego4d")
    source.add("a", "train", [action(0)])
    source.write()
    # All frames are out of focus but 32 and 59.
    pictures = [drawn(number, 160, 96) for number in range(80)]
    pictures = [
        picture if number in (32, 59) else picture.filter(ImageFilter.GaussianBlur(2))
        for number, picture in enumerate(pictures)
    ]
    make_video(source.clips / "clip-a.mp4", pictures)
    layout = prepare(source, tmp_path / "out", "--sharpest", "3")
    (item,) = Annotations.read(layout.annotations("train"))
    assert [Path(name).name for name in (item.action.image_0, item.action.image_1)] == [
        "frame_0000000032.jpg",
        "frame_0000000059.jpg",
    ]
    (row,) = decisions(layout)
    assert row["seconds_0"] == pytest.approx(32 / 30)
    assert row["sharpness_0"] > 0


def test_sharpness_is_the_variance_of_the_laplacian() -> None:
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 256, (9, 12), np.uint8)
    values = grey.astype(float)
    laplacian = [
        values[y - 1, x] + values[y + 1, x] + values[y, x - 1] + values[y, x + 1] - 4 * values[y, x]
        for y in range(1, 8)
        for x in range(1, 11)
    ]
    assert sharpness(Image.fromarray(grey)) == pytest.approx(np.var(laplacian), rel=1e-5)
    assert sharpness(Image.new("RGB", (8, 8), "red")) == 0
    assert sharpness(Image.new("RGB", (2, 2), "red")) == 0


def test_the_report_and_its_picture(source: Ego4D, tmp_path: Path) -> None:
    layout = prepare(source, tmp_path)
    text = report(layout)
    assert "| actions |" in text
    assert "| kept    |     3 |   3 |   6 |" in text
    assert "Similarity filter: **off**" in text
    (sheet,) = layout.preparation.glob("*/contact_sheet.jpg")
    with Image.open(sheet) as picture:
        assert picture.width > 3 * picture.height / 2


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--size", "4"], "--size 4: expected 8 to 4096"),
        (["--quality", "101"], "--quality 101: expected 1 to 95"),
        (["--limit", "0"], "--limit 0: expected 1 or more"),
        (["--sharpest", "-1"], "--sharpest -1: expected 0 or more"),
        (["--similarity", "0.9", "0.8"], r"--similarity 0\.9 0\.8: expected -1 <= LOW <= HIGH <= 1"),
        (["--embedder", "none.pt"], r"none\.pt: no such file or folder"),
        (["--aesthetic-head", "head.pth"], "--aesthetic-head needs --embedder"),
        (["--min-aesthetic", "5"], "--min-aesthetic needs --embedder"),
        (["--embedder", ".", "--min-aesthetic", "5"], "--min-aesthetic needs --aesthetic-head"),
    ],
)
def test_wrong_flags(source: Ego4D, tmp_path: Path, flags: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        prepare(source, tmp_path, *flags)


def test_ctrl_c_ends_with_one_line(source: Ego4D, tmp_path: Path) -> None:
    make_video(source.clips / "clip-a.mp4", [drawn(number, 320, 192) for number in range(400)])
    words = [
        sys.executable,
        "-m",
        "egogen.prepare",
        "ego4d",
        *source.words(tmp_path / "out", "--sharpest", "200"),
    ]
    process = subprocess.Popen(
        words,
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        # Under a background job the signal is ignored, and what is ignored stays so in children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stderr is not None
    assert process.stderr.readline() == "2 of 2 sources are to be read\n"
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert said.splitlines()[-1] == "interrupted; run the same command again to go on"
    assert "Traceback" not in said


def test_a_decoder_that_crashes_is_a_broken_source(
    source: Ego4D, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from egogen.prepare import run as run_module

    real = run_module.extract

    def crash(work: Any, **more: Any) -> None:
        if work.source.name == "clip-a":
            os.kill(os.getpid(), signal.SIGKILL)
        real(work, **more)

    monkeypatch.setattr(run_module, "extract", crash)
    with pytest.raises(SystemExit) as stop:
        prepare(source, tmp_path)
    assert stop.value.code == 11
    reasons = {row["clip"]: row["reason"] for row in decisions(Layout(tmp_path, "ego4d"))}
    assert reasons == {"clip-a": "source unreadable", "clip-b": None}


def test_a_damaged_journal_is_named(source: Ego4D, tmp_path: Path) -> None:
    layout = prepare(source, tmp_path)
    (journal,) = layout.preparation.glob("*/journals/clip-a.jsonl")
    journal.write_text("[]\n" + journal.read_text())
    with pytest.raises(UserError, match=r"clip-a\.jsonl: line 1 is damaged; delete the line"):
        prepare(source, tmp_path)
    shutil.rmtree(journal.parent)
    before = frames(layout)
    prepare(source, tmp_path)
    assert {name: content for name, (content, _) in frames(layout).items()} == {
        name: content for name, (content, _) in before.items()
    }
