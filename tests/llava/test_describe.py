"""Describing a split: parts, batches, interruptions, other settings, full disks."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from egogen.annotations import Annotations
from egogen.errors import UserError
from egogen.files import part_of
from egogen.frames import pack
from llava.describe import Description, main
from llava.describing import describing_loop
from llava.merge import main as merge
from tests.forked import Forked, command
from tests.llava.describing import features_of, flags
from tests.second_process import second_process
from tests.small_disk import largest_file


@pytest.fixture(scope="module")
def whole(split: Path, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole")
    main(flags(split, tiny, out))
    return out


def test_texts_and_features_of_a_split(whole: Path) -> None:
    texts = json.loads((whole / "texts" / "chunk_1_of_1.json").read_text())
    assert texts["c"]["4"]["original action"] == "#C C pushes the cup"
    assert texts["c"]["4"]["action"] == "push the cup"
    assert isinstance(texts["c"]["4"]["description"], str)
    image, text = features_of(whole / "image"), features_of(whole / "text")
    assert image.keys() == text.keys()
    assert {str(path) for path in image} == {
        "a/0/x.npy",
        "a/1/x.npy",
        "b_jpg/0/x.npy",
        "c/0/x.npy",
        "c/1/x.npy",
    }
    assert all(values.shape == (16, 64) and values.dtype == np.float16 for values in image.values())
    assert all(values.ndim == 2 and 1 <= len(values) <= 7 for values in text.values())


@pytest.mark.parametrize(
    "parts",
    [
        ("--shard", "1/2", "2/2"), ("--chunk-idx", "1", "2"), ("--shard", "1/3", "2/3", "3/3"),
        ("--shard", "auto/3"),
    ],
)  # fmt: skip
def test_parts_and_batch_size_change_nothing(
    whole: Path, split: Path, tiny: Path, tmp_path: Path, parts: tuple[str, ...]
) -> None:
    flag, *values = parts
    more = ["--num-chunks", "2"] if flag == "--chunk-idx" else []
    for value in values:
        main(flags(split, tiny, tmp_path, flag, value, "--batch-size", "1", *more))
    for kind in ("image", "text"):
        one, many = features_of(whole / kind), features_of(tmp_path / kind)
        assert one.keys() == many.keys()
        assert all(np.allclose(one[path], many[path], atol=2e-3) for path in one)  # float16 files
    for out in (whole, tmp_path):
        merge(
            [
                "--save-path",
                str(out / "texts"),
                "--edits",
                str(split / "ego4d_val.json"),
                "--out",
                str(out / "m.json"),
            ]
        )
    assert (whole / "m.json").read_bytes() == (tmp_path / "m.json").read_bytes()
    merged = Annotations.read(whole / "m.json")
    assert all(item.action.llava_forecast_finetune is not None for item in merged)


def test_more_chunks_than_clips_is_no_error(split: Path, tiny: Path, tmp_path: Path) -> None:
    main(flags(split, tiny, tmp_path, "--num-chunks", "5", "--chunk-idx", "5"))
    assert json.loads((tmp_path / "texts" / "chunk_5_of_5.json").read_text()) == {}


def test_an_interrupted_run_goes_on(
    whole: Path, split: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = describing_loop.describe, []

    def interrupted(*args: Any, **kwargs: Any) -> list[Description]:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(describing_loop, "describe", interrupted)
    with pytest.raises(KeyboardInterrupt):
        main(flags(split, tiny, tmp_path, "--batch-size", "2"))
    journal = tmp_path / "texts" / "chunk_1_of_1.jsonl"
    assert len(journal.read_text().splitlines()) == 2
    with journal.open("a") as file:
        file.write('{"clip": "a", "id"')  # as a killed run leaves it
    main(flags(split, tiny, tmp_path, "--batch-size", "2"))
    assert len(calls) == 4  # 2 of 5 actions were done
    made, expected = (
        json.loads((out / "texts" / "chunk_1_of_1.json").read_text()) for out in (tmp_path, whole)
    )
    assert made == expected


def test_a_finished_run_loads_no_model(
    whole: Path, split: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llava.model.load", lambda *_, **__: pytest.fail("the model was loaded"))
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    left = [part_of(whole / kind / "x.npy") for kind in ("texts", "image/a", "text/a")]
    left = [path.with_name(path.name.replace(f"-{os.getpid()}-", f"-{ended.pid}-")) for path in left]
    for path in left:
        path.touch()
    (whole / "texts" / "journals" / "swept").unlink()  # as if nobody had looked for a day
    main(flags(split, tiny, whole))
    assert not any(path.exists() for path in left), "an ended run's unfinished files go"


def test_a_restart_opens_no_feature_that_is_as_it_was(
    whole: Path, split: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    main(flags(split, tiny, whole))
    before = (whole / "texts" / "chunk_1_of_1.json").read_bytes()
    monkeypatch.setattr("llava.describing.saving.is_done", lambda path: pytest.fail(f"{path} was opened"))
    main(flags(split, tiny, whole))
    assert (whole / "texts" / "chunk_1_of_1.json").read_bytes() == before
    assert before == f"{json.dumps(json.loads(before), indent=4)}\n".encode()


def test_a_missing_feature_is_made_again(whole: Path, split: Path, tiny: Path) -> None:
    lost = whole / "text" / "a" / "0" / "x.npy"
    before = np.load(lost)
    lost.unlink()
    main(flags(split, tiny, whole))
    assert np.allclose(np.load(lost), before, atol=2e-3)


@pytest.mark.parametrize("damage", ["empty", "cut", "other shape"])
def test_a_damaged_feature_is_made_again(
    whole: Path, split: Path, tiny: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    for lost in (whole / "text/a/0/x.npy", whole / "image/a/0/x.npy"):
        before = np.load(lost)
        if damage == "other shape":
            np.save(lost, before[:0])
        else:
            os.truncate(lost, 0 if damage == "empty" else lost.stat().st_size - 1)
        main(flags(split, tiny, whole))
        assert f"{lost}: empty, cut off or of another shape; it is made anew" in caplog.text
        assert np.allclose(np.load(lost), before, atol=2e-3)


def test_packed_frames_are_described_as_single_files_are(
    whole: Path, split: Path, tiny: Path, tmp_path: Path
) -> None:
    items = Annotations.read(split / "ego4d_val.json").items
    pack(split / "frames", [item.action.image_0 for item in items], tmp_path / "tars", frames_per_tar=2)
    main(flags(split, tiny, tmp_path, "--image-dir", str(tmp_path / "tars")))
    name = "texts/chunk_1_of_1.json"
    assert (tmp_path / name).read_bytes() == (whole / name).read_bytes()
    for kind in ("image", "text"):
        packed, single = features_of(tmp_path / kind), features_of(whole / kind)
        assert packed.keys() == single.keys()
        assert all(np.allclose(packed[path], single[path], atol=2e-3) for path in single)
    more = ("--image-dir", str(tmp_path / "tars"), "--setting", "description")
    with pytest.raises(UserError, match=r"holds frame 'a/0/after_x\.jpg'; .*; 4 more frames have faults"):
        main(flags(split, tiny, tmp_path / "b", *more))


@pytest.mark.parametrize(
    "more", [("--temperature", "0.5"), ("--query", "What is {}?"), ("--seed", "1"), ("--greedy",)]
)
def test_results_of_other_settings_are_never_mixed(
    whole: Path, split: Path, tiny: Path, more: tuple[str, ...]
) -> None:
    with pytest.raises(UserError, match=r"manifest.json: the folder was made with"):
        main(flags(split, tiny, whole, *more))


def test_feature_folders_of_another_run_are_refused(
    whole: Path, split: Path, tiny: Path, tmp_path: Path
) -> None:
    argv = flags(split, tiny, whole, "--seed", "9")
    argv[argv.index("--save-path") + 1] = str(tmp_path)
    with pytest.raises(UserError, match=r"image/manifest\.json"):
        main(argv)


def test_processes_of_torchrun_take_their_share(
    whole: Path, split: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("1", "0"):
        monkeypatch.setenv("RANK", rank)
        main(flags(split, tiny, tmp_path))
    parts = {path.name for path in (tmp_path / "texts").glob("shard*.json")}
    assert parts == {"shard_1_of_2.json", "shard_2_of_2.json"}
    assert features_of(tmp_path / "text").keys() == features_of(whole / "text").keys()
    with pytest.raises(UserError, match="not under torchrun"):
        main(flags(split, tiny, tmp_path, "--shard", "1/2"))


def test_batches_shrink_when_memory_runs_out(
    whole: Path, split: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, sizes = describing_loop.describe, []

    def greedy(*args: Any, **kwargs: Any) -> list[Description]:
        sizes.append(len(args[3]))
        if sizes[-1] > 2:
            raise torch.OutOfMemoryError("as a GPU says")
        return real(*args, **kwargs)

    monkeypatch.setattr(describing_loop, "describe", greedy)
    main(flags(split, tiny, tmp_path, "--batch-size", "5"))
    assert sizes == [5, 2, 2, 1]
    texts = [(out / "texts/chunk_1_of_1.json").read_bytes() for out in (whole, tmp_path)]
    assert texts[0] == texts[1]


@pytest.mark.slow
def test_a_killed_run_goes_on(whole: Path, split: Path, tiny: Path, tmp_path: Path) -> None:
    argv = flags(split, tiny, tmp_path, "--batch-size", "1")
    journal = tmp_path / "texts/chunk_1_of_1.jsonl"
    process = Forked(command, "llava.describe", argv, log=tmp_path / "log")
    while process.poll() is None and not (journal.exists() and journal.read_bytes().count(b"\n") >= 2):
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    done = journal.read_text().splitlines()
    assert 2 <= len(done) < 5, "it was killed too late to tell anything"
    main(flags(split, tiny, tmp_path, "--batch-size", "1"))
    lines = journal.read_text().splitlines()
    assert lines[: len(done)] == done
    assert len(lines) == 5
    texts = [(out / "texts/chunk_1_of_1.json").read_bytes() for out in (whole, tmp_path)]
    assert texts[0] == texts[1]
    assert features_of(tmp_path / "text").keys() == features_of(whole / "text").keys()


def test_another_clip_is_another_run(split: Path, own_tiny: Path, tmp_path: Path) -> None:
    main(flags(split, own_tiny, tmp_path / "out"))
    weights = own_tiny.parent / "openai/clip-tiny-v/pytorch_model.bin"
    state = torch.load(weights, weights_only=True)
    torch.save({name: value * 1.01 for name, value in state.items()}, weights)
    with pytest.raises(UserError, match="vision_tower"):
        main(flags(split, own_tiny, tmp_path / "out"))


def test_one_part_by_two_processes_is_refused_and_nothing_is_touched(
    split: Path, tiny: Path, tmp_path: Path
) -> None:
    lines = tmp_path / "texts" / "shard_1_of_2.jsonl"
    lines.parent.mkdir()
    lines.write_text('{"clip": "a", half a li')  # what the first is writing
    with second_process(lines) as first:
        with pytest.raises(UserError, match=rf"describing is under way in process {first.pid} "):
            main(flags(split, tiny, tmp_path, "--shard", "1/2"))
        assert lines.read_text() == '{"clip": "a", half a li'
        main(flags(split, tiny, tmp_path, "--shard", "2/2"))  # another part may go on beside it
    main(flags(split, tiny, tmp_path, "--shard", "1/2"))
    assert not list(tmp_path.rglob("*.lock"))
    out = tmp_path / "merged.json"
    with second_process(out), pytest.raises(UserError, match="merging is under way"):
        merge(
            [*("--save-path", str(lines.parent), "--edits", str(split / "ego4d_val.json"), "--out", str(out))]
        )


@pytest.mark.parametrize("store", ["npy", "compact"])
def test_a_full_disk_is_one_line_and_the_same_command_goes_on(
    store: str, split: Path, tiny: Path, whole: Path, tmp_path: Path
) -> None:
    words = flags(split, tiny, tmp_path, "--feature-store", store)
    with largest_file(1000), pytest.raises(UserError, match=r"not written \(.*File too large.* free") as told:
        main(words)
    assert str(tmp_path) in str(told.value)
    assert "checkpoint whole" not in str(told.value)  # that is asked of features that are no numbers
    main(words)
    name = "texts/chunk_1_of_1.json"
    assert (tmp_path / name).read_bytes() == (whole / name).read_bytes()
