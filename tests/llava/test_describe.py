import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from egogen import cli
from egogen.annotations import Annotations
from egogen.errors import UserError
from egogen.files import part_of, write_json
from egogen.frames import pack
from egogen.manifest import checkpoint_hash
from llava.describe import Description, main
from llava.describing import describing_loop
from llava.describing.decode import Sampling
from llava.describing.saving import Descriptions
from llava.merge import main as merge
from llava.model import load
from tests.second_process import second_process
from tests.small_disk import largest_file

WORDS = (
    "picks up the cup",
    "opens the box",
    "cuts the apple with the knife",
    "closes the pan",
    "pushes the cup",
)


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five actions in three clips, two of them with unusual file names."""
    root = tmp_path_factory.mktemp("split")
    names = ["a/0/x.jpg", "a/1/x.jpg", "b_jpg/0/x.jpeg", "c/0/x.png", "c/1/x.JPG"]
    rng = np.random.default_rng(0)
    raw: dict[str, Any] = {}
    for index, (name, words) in enumerate(zip(names, WORDS, strict=True)):
        path = root / "frames" / name
        path.parent.mkdir(parents=True)
        image = Image.fromarray(rng.integers(0, 255, (40, 70, 3), dtype=np.uint8))
        image.save(path, "JPEG" if "p" in path.suffix and path.suffix != ".png" else None)
        shutil.copy(path, path.with_name(f"after_{path.name}"))
        entry = {"image_0": name, "image_1": f"{path.parent.relative_to(root / 'frames')}/after_{path.name}"}
        raw.setdefault(name.split("/")[0], {})[str(index)] = {**entry, "action": f"#C C {words}"}
    write_json(root / "ego4d_val.json", raw)
    return root


def flags(split: Path, tiny: Path, out: Path, *more: str) -> list[str]:
    return [
        *("--model-path", str(tiny), "--image-dir", str(split / "frames")),
        *("--action-label", str(split / "ego4d_val.json"), "--save-path", str(out / "texts")),
        *("--save-image-feature-path", str(out / "image"), "--save-text-feature-path", str(out / "text")),
        *("--max-new-tokens", "7", "--device", "cpu", *more),
    ]


def features_of(folder: Path) -> dict[Path, np.ndarray]:
    return {path.relative_to(folder): np.load(path) for path in sorted(folder.rglob("*.npy"))}


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
    "parts", [("--shard", "1/2", "2/2"), ("--chunk-idx", "1", "2"), ("--shard", "1/3", "2/3", "3/3")]
)
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
    main(flags(split, tiny, whole))
    assert not any(path.exists() for path in left), "an ended run's unfinished files go"


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


def test_the_target_frame_can_be_described(split: Path, tiny: Path, tmp_path: Path) -> None:
    main(flags(split, tiny, tmp_path, "--setting", "description", "--greedy"))
    assert (tmp_path / "image" / "a" / "0" / "after_x.npy").exists()


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
    with pytest.raises(UserError, match=r"here holds frame 'a/0/after_x\.jpg' \(and 4 more frames\)"):
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


@pytest.mark.parametrize(
    ("breaking", "message"),
    [
        (lambda root: (root / "frames/a/0/x.jpg").unlink(), "a/0/x.jpg: no such frame"),
        (
            lambda root: (root / "frames/c/0/x.png").write_bytes(b"\x89PNG"),
            "c/0/x.png: not a readable image",
        ),
        (lambda root: (root / "ego4d_val.json").write_text("[]"), "found list"),
        (lambda root: (root / "ego4d_val.json").write_text("{"), "not valid JSON"),
    ],
)
def test_bad_input_ends_with_one_line_and_code_2(
    split: Path,
    tiny: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    breaking: Callable[[Path], object],
    message: str,
) -> None:
    shutil.copytree(split, tmp_path / "split")
    breaking(tmp_path / "split")
    with pytest.raises(SystemExit) as ended:
        cli.run(lambda: main(flags(tmp_path / "split", tiny, tmp_path)))
    assert ended.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert message in lines[0]
    assert not list(tmp_path.rglob("*.npy"))


@pytest.mark.parametrize(
    "more", [("--batch-size", "0"), ("--temperature", "0"), ("--setting", "x"), ("--unknown",)]
)
def test_bad_arguments_end_with_code_2(
    split: Path, tiny: Path, tmp_path: Path, more: tuple[str, ...]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(flags(split, tiny, tmp_path, *more))
    assert ended.value.code == 2


def test_two_actions_of_one_frame_have_a_text_feature_each(split: Path, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "frames/a/0").mkdir(parents=True)
    shutil.copy(split / "frames/a/0/x.jpg", tmp_path / "frames/a/0/x.jpg")
    entry = {"image_0": "a/0/x.jpg", "image_1": "a/0/y.jpg"}
    actions = {"0": {**entry, "action": "#C C walks"}, "1": {**entry, "action": "#C C opens the box"}}
    write_json(tmp_path / "ego4d_val.json", {"a": actions})
    main(flags(tmp_path, tiny, tmp_path))
    texts = features_of(tmp_path / "text")
    assert list(map(str, texts)) == ["a/0/x.a.1.npy", "a/0/x.npy"]
    assert list(map(str, features_of(tmp_path / "image"))) == ["a/0/x.npy"]
    # A shard has the same names, though it knows one of the two only.
    main([*flags(tmp_path, tiny, tmp_path / "part"), "--shard", "2/2"])
    part = features_of(tmp_path / "part/text")
    assert np.allclose(part[Path("a/0/x.a.1.npy")], texts[Path("a/0/x.a.1.npy")], atol=2e-3)


@pytest.mark.parametrize(
    ("label", "said"),
    [
        ("#C C cuts </s>", r"label '#C C cuts </s>': label '#C C cuts </s>': it holds </s>"),
        ("#C C [/INST]", r"it holds \[/INST\]"),
        ("#C C", "it is blank"),
        ("#C C \u200b", "it is blank"),
        ("#C C cuts " + "the carrot and " * 700, "the model has places for 2033 beside the image"),
    ],
)
def test_labels_that_cannot_be_asked_about_are_named_first(
    label: str, said: str, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llava.model.load", lambda *_, **__: pytest.fail("the model was loaded"))
    entry = {"image_0": "a.jpg", "image_1": "b.jpg"}
    actions = {"0": {**entry, "action": "#C C walks"}, "1": {**entry, "action": label}}
    write_json(tmp_path / "ego4d_val.json", {"a": actions})
    with pytest.raises(UserError, match=rf"clip 'a' action '1'.*{said}.*1 of 2 actions"):
        main(flags(tmp_path, tiny, tmp_path))
    assert not (tmp_path / "texts").exists()


def test_answers_past_the_models_places_are_counted(
    split: Path,
    tiny: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(describing_loop, "places", lambda _: 100)
    main(flags(split, tiny, tmp_path, "--greedy", "--shard", "1/5"))
    assert "1 of 1 answers went past the model's 100 places" in caplog.text


def test_two_frames_of_one_feature_file_are_refused(tmp_path: Path, tiny: Path) -> None:
    entry = {"image_1": "b.jpg", "action": "#C C walks"}
    actions = {"0": {**entry, "image_0": "a.jpg"}, "1": {**entry, "image_0": "a.png"}}
    write_json(tmp_path / "ego4d_val.json", {"a": actions})
    with pytest.raises(UserError, match=r"a\.png .* would write the same image feature"):
        main(flags(tmp_path, tiny, tmp_path))


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


def test_a_batch_size_that_fits_a_gpu(monkeypatch: pytest.MonkeyPatch, tiny: Path) -> None:
    model = load(tiny)[0]
    assert describing_loop.fitting_batch_size(model, 100, Sampling()) == describing_loop.CPU_BATCH
    # 2 layers of width 64, keys and values of 4 bytes, 100 + 16 + 1024 places: 1,167,360 bytes a row.
    monkeypatch.setattr(type(model), "device", property(lambda _: torch.device("cuda")))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (10 * 1167360, 0))
    assert describing_loop.fitting_batch_size(model, 100, Sampling()) == 8
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (1000, 0))
    assert describing_loop.fitting_batch_size(model, 100, Sampling()) == 1


def test_labels_may_be_lemmatised_as_published(split: Path, tiny: Path, tmp_path: Path) -> None:
    raw = json.loads((split / "ego4d_val.json").read_text())
    raw = {"a": {"0": {**raw["a"]["0"], "action": "#C C scrapes the pan"}}}
    write_json(tmp_path / "ego4d_val.json", raw)
    (tmp_path / "frames").symlink_to(split / "frames")
    main(flags(tmp_path, tiny, tmp_path, "--lemmas", "wordnet"))
    texts = json.loads((tmp_path / "texts/chunk_1_of_1.json").read_text())
    assert texts["a"]["0"]["action"] == "scrap the pan"


@pytest.mark.slow
def test_a_killed_run_goes_on(whole: Path, split: Path, tiny: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "llava.describe", *flags(split, tiny, tmp_path, "--batch-size", "1")]
    journal = tmp_path / "texts/chunk_1_of_1.jsonl"
    with subprocess.Popen(command, cwd=Path(__file__).parents[2]) as process:
        while process.poll() is None and not (journal.exists() and journal.read_bytes().count(b"\n") >= 2):
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    done = journal.read_text().splitlines()
    assert 2 <= len(done) < 5, "it was killed too late to tell anything"
    main(flags(split, tiny, tmp_path, "--batch-size", "1"))
    lines = journal.read_text().splitlines()
    assert lines[: len(done)] == done
    assert len(lines) == 5
    texts = [(out / "texts/chunk_1_of_1.json").read_bytes() for out in (whole, tmp_path)]
    assert texts[0] == texts[1]
    assert features_of(tmp_path / "text").keys() == features_of(whole / "text").keys()


def test_a_changed_label_or_feature_is_described_anew(tmp_path: Path, split: Path) -> None:
    items = Annotations.read(split / "ego4d_val.json").items
    journal = Descriptions(tmp_path / "j.jsonl")
    texts = {"original action": items[0].action.action, "action": "words", "description": "text \u2603"}
    journal.add([{"clip": items[0].clip, "id": items[0].id, **texts, "feature": "a/0/x.jpg"}])
    again = Descriptions(tmp_path / "j.jsonl")
    assert again.has(items[0], "a/0/x.jpg")
    assert not again.has(items[0], "a/0/x.a.0.jpg")
    assert not again.has(items[1], "a/0/x.jpg")
    assert not again.has(items[0]._replace(action=items[1].action), "a/0/x.jpg")
    with (tmp_path / "j.jsonl").open("a") as file:
        file.write("{broken}\n")
    with pytest.raises(UserError, match="line 2 is damaged"):
        Descriptions(tmp_path / "j.jsonl")


def test_features_that_are_no_numbers_are_refused(
    split: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = describing_loop.describe

    def overflowing(*args: Any, **kwargs: Any) -> list[Description]:
        return [replace(made, text_features=made.text_features * 1e9) for made in real(*args, **kwargs)]

    monkeypatch.setattr(describing_loop, "describe", overflowing)
    with pytest.raises(UserError, match="try --dtype bfloat16"):
        main(flags(split, tiny, tmp_path))


def test_another_clip_is_another_run(split: Path, own_tiny: Path, tmp_path: Path) -> None:
    main(flags(split, own_tiny, tmp_path / "out"))
    weights = own_tiny.parent / "openai/clip-tiny-v/pytorch_model.bin"
    state = torch.load(weights, weights_only=True)
    torch.save({name: value * 1.01 for name, value in state.items()}, weights)
    with pytest.raises(UserError, match="vision_tower"):
        main(flags(split, own_tiny, tmp_path / "out"))


def test_what_training_adds_changes_no_checkpoint_hash(tmp_path: Path, tiny: Path) -> None:
    shutil.copytree(tiny, tmp_path / "m")
    before = checkpoint_hash(tmp_path / "m")
    for name in ("record.json", "run.json", "trainer_state.json", "complete.json"):
        write_json(tmp_path / "m" / name, {"a": 1})
    assert checkpoint_hash(tmp_path / "m") == before
    write_json(tmp_path / "m" / "config.json", {})
    assert checkpoint_hash(tmp_path / "m") != before


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
    main(words)
    name = "texts/chunk_1_of_1.json"
    assert (tmp_path / name).read_bytes() == (whole / name).read_bytes()
