"""Frames in tar files: witness is the same run in single files, drawn, measured and shown."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from unittest import mock

import pytest

from egogen import packed_frames
from egogen.errors import UserError
from egogen.files import part_of
from egogen.layout import frame_tar, frame_tars, tar_index
from egogen.packed_frames import DrawnFrames, PackedFrames, packed_names, write_tar
from ldm.evaluate import main as evaluate
from ldm.report.__main__ import main as report
from ldm.sample import main as sample
from ldm.sampling import drawing_job, frame_output
from tests.ldm.toy_run import Run, make_run

pytestmark = pytest.mark.usefixtures("kept_items")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("run"))


def copy(run: Run, out: Path, *words: str) -> None:
    config = run.root / "generate.yaml"
    config.write_text("sampling: {format: png}\n")
    sample(["--config", str(config), "--method", "copy", "--out", str(out), *words, *run.words()])


def packed(run: Run, out: Path, *words: str) -> None:
    copy(run, out, "--out-format", "webdataset", *words)


@pytest.fixture(scope="module")
def files(run: Run) -> Path:
    copy(run, run.root / "files")
    return run.root / "files"


def frames(out: Path) -> dict[str, bytes]:
    found = DrawnFrames(out / "images")
    return {name: found.file(name).read_bytes() for name in found.names}


def test_frames_are_those_of_single_files(run: Run, files: Path, tmp_path: Path) -> None:
    with mock.patch.object(frame_output, "MOST_FRAMES", 2):
        packed(run, tmp_path)
    tars = frame_tars(tmp_path / "images")
    assert len(tars) > 1
    assert frames(tmp_path) == frames(files) != {}
    members: dict[str, bytes] = {}
    for tar in tars:
        with tarfile.open(tar) as opened:
            members |= {each.name: opened.extractfile(each).read() for each in opened}  # type: ignore[union-attr]
    assert members == frames(files)
    assert json.loads((tmp_path / "manifest.json").read_text())["out_format"] == "webdataset"
    assert not [path for path in (tmp_path / "images").iterdir() if path.is_dir()]


def test_what_a_killed_run_left_of_a_frame_goes_when_it_is_drawn(run: Run, tmp_path: Path) -> None:
    copy(run, tmp_path)
    frame = next((tmp_path / "images").rglob("*.png"))
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    part = part_of(frame)
    part = part.with_name(part.name.replace(f"-{os.getpid()}-", f"-{ended.pid}-"))
    frame.rename(part)
    copy(run, tmp_path)
    assert [path for path in frame.parent.iterdir() if path.suffix != ".png"] == []
    assert frame.exists()


@pytest.mark.parametrize("shard", [["--shard", "2/3"], ["--n_chunk", "2", "--chunk_idx", "1"]])
def test_a_part_goes_on_to_the_whole_and_nothing_is_drawn_twice(
    run: Run, files: Path, tmp_path: Path, shard: list[str]
) -> None:
    packed(run, tmp_path, *shard)
    before = frames(tmp_path)
    assert 0 < len(before) < len(frames(files))
    packed(run, tmp_path)
    packed(run, tmp_path)
    assert frames(tmp_path) == frames(files)
    held = [PackedFrames.__len__(DrawnFrames(tmp_path / "images").packed or PackedFrames(tmp_path))]
    listed = [json.loads(tar_index(tar).read_text())["frames"] for tar in frame_tars(tmp_path / "images")]
    assert sum(map(len, listed)) == held[0]


def test_what_was_drawn_before_a_fault_is_kept(run: Run, files: Path, tmp_path: Path) -> None:
    real, calls = frame_output.FrameTars.add, []

    def fails(self: frame_output.FrameTars, name: str, content: bytes) -> None:
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(name)
        real(self, name, content)

    with mock.patch.object(frame_output.FrameTars, "add", fails), pytest.raises(KeyboardInterrupt):
        packed(run, tmp_path)
    assert sorted(frames(tmp_path)) == sorted(calls)
    packed(run, tmp_path)
    assert frames(tmp_path) == frames(files)


def test_a_damaged_tar_file_is_set_aside_and_its_frames_are_drawn_anew(
    run: Run, files: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    packed(run, tmp_path)
    (tar,) = frame_tars(tmp_path / "images")
    tar.write_bytes(tar.read_bytes()[:700])
    with pytest.raises(UserError, match="cut off"):
        DrawnFrames(tmp_path / "images")
    packed(run, tmp_path)
    assert "it is renamed to .damaged, and its frames are drawn anew" in caplog.text
    assert frames(tmp_path) == frames(files)


@pytest.mark.parametrize("cut", [0, 700])
def test_of_several_processes_one_sets_a_damaged_tar_file_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: int
) -> None:
    """Another one does so just before this one looks at the file, or (cut) just before it renames it."""
    for name in ("a", "b"):
        write_tar(frame_tar(tmp_path, name, 0), {f"c/{name}/x.jpg": b"1" * 700})
    first, real = frame_tar(tmp_path, "a", 0), packed_frames.index_of

    def index_of(tar: Path) -> dict[str, tuple[int, int]]:
        if tar == first and not cut:
            tar.replace(tar.with_suffix(".damaged"))
        try:
            return real(tar)
        finally:
            if tar == first and cut:
                tar.replace(tar.with_suffix(".damaged"))

    if cut:
        first.write_bytes(first.read_bytes()[:cut])
    monkeypatch.setattr(packed_frames, "index_of", index_of)
    assert packed_names(tmp_path).tolist() == [hash("c/b/x.jpg")]
    assert first.with_suffix(".damaged").exists()


@pytest.mark.parametrize("index", [None, "{", '{"bytes": 3, "frames": {}}', '{"bytes": -1}', "[]"])
def test_an_index_that_is_lost_or_damaged_is_made_anew(tmp_path: Path, index: str | None) -> None:
    content = {"c/a/x.jpg": b"1" * 700, "c/b/x.jpg": b"", "c/c/x.jpg": b"3" * 512}
    tar = tmp_path / "frames-all-00000.tar"
    write_tar(tar, content)
    place, right = tar_index(tar), tar_index(tar).read_bytes()
    place.unlink() if index is None else place.write_text(index)
    found = PackedFrames(tmp_path)
    assert {name: frame.read_bytes() for name, frame in found.items()} == content
    assert place.read_bytes() == right


def test_a_restart_opens_no_frame_that_is_as_it_was(
    run: Run, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy(run, tmp_path)
    looked: list[Path] = []
    real = frame_output.probe
    monkeypatch.setattr(frame_output, "probe", lambda path: looked.append(path) or real(path))
    copy(run, tmp_path)
    assert looked == []
    first, second, *_ = sorted((tmp_path / "images").rglob("*.png"))
    first.write_bytes(first.read_bytes()[: first.stat().st_size // 2])
    second.unlink()
    copy(run, tmp_path)
    assert looked == [first]
    assert frames(tmp_path) == frames(files)
    shutil.rmtree(tmp_path / "drawn")  # as in a folder of before
    for _ in range(2):
        copy(run, tmp_path)
        assert len(looked) == 1 + len(frames(files)), "each is opened once, and noted"


def test_items_are_not_looked_at_while_the_annotations_are_the_same(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy(run, tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    items = json.loads((tmp_path / "items.json").read_text())
    with monkeypatch.context() as patch:
        patch.setattr(drawing_job, "item_digests", lambda _: pytest.fail("the items were digested"))
        copy(run, tmp_path)
    # A folder of before has them in the manifest; a change of the file asks for a look, and one is told of.
    (tmp_path / "items.json").unlink()
    old = {**manifest, "items": items, "annotations": "of other spaces"}
    (tmp_path / "manifest.json").write_text(json.dumps(old))
    copy(run, tmp_path)
    old["items"] = dict.fromkeys(items, "another")
    (tmp_path / "manifest.json").write_text(json.dumps(old))
    with pytest.raises(UserError, match="has another frame or text than when it was drawn"):
        copy(run, tmp_path)
    old["items"] = dict(list(items.items())[:1])
    (tmp_path / "manifest.json").write_text(json.dumps(old))
    copy(run, tmp_path)
    assert json.loads((tmp_path / "manifest.json").read_text()) == manifest
    assert json.loads((tmp_path / "items.json").read_text()) == items


def test_the_two_forms_do_not_mix(run: Run, files: Path) -> None:
    with pytest.raises(UserError, match="out_format = None, this run has 'webdataset'"):
        packed(run, files)


def test_both_are_measured_and_shown_alike(
    run: Run, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("RUN_ROOT", str(tmp_path / "runs"))
    packed(run, tmp_path / "packed")
    values = []
    for out in (files, tmp_path / "packed"):
        evaluate(
            ["--dataset", "ego4d", "--gen_path", str(out), "--gt_path", str(run.layout.metric_targets),
             "--edit_file", str(run.annotations("val")), "--metrics", "psnr,ssim", "--device", "cpu"]
        )  # fmt: skip
        values.append(json.loads((out / "metric" / "per_sample.json").read_text()))
    assert values[0] == values[1]
    with caplog.at_level(logging.INFO):
        report(
            [str(files), str(tmp_path / "packed"), "--out", str(tmp_path / "report"), "--annotations",
             str(run.annotations("val")), "--frames", str(run.layout.frames("val"))]
        )  # fmt: skip
    page = (tmp_path / "report" / "index.html").read_text()
    assert page.count("data:image/png;base64") >= 2
