"""`python -m egogen.features`: there and back, its errors, killed runs, wrong projectors, sizes."""

from __future__ import annotations

import json
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

from egogen.cli import run as run_command
from egogen.errors import UserError
from egogen.features import store_conversion as module
from egogen.features import write_feature
from egogen.features.__main__ import main
from egogen.features.byte_sizes import FeatureShape, sizes
from egogen.features.compare import compare
from egogen.features.feature_shards import Shards
from egogen.files import part_of, write_json
from egogen.layout import clip_folder, feature_folders, projector_path, shard_path, shard_paths
from tests.feature_store import NAMES, PATCH_WIDTH, WIDTH, folder, patches, projector, text, write_tree

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tree(tmp_path_factory.mktemp("tree"))


@pytest.fixture(scope="module")
def compact(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convert(tree, tmp_path_factory.mktemp("stores") / "compact")


def words(source: Path, target: Path, *more: str) -> list[str]:
    known = ["--projector", str(source / "projector.safetensors")] if "--projector" not in more else []
    return ["convert", str(source), str(target), *known, "--features-per-shard", "4", *more]


def convert(source: Path, target: Path, *more: str) -> Path:
    main(words(source, target, *more))
    return target


def content(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and path.name != "record.json"
    }


def size(place: Path) -> int:
    return sum(path.stat().st_size for path in place.rglob("*") if path.suffix in (".npy", ".safetensors"))


def test_a_published_tree_becomes_compact(tree: Path, compact: Path) -> None:
    images, texts = (Shards(folder(compact, kind)) for kind in ("llava_image", "llava_text"))
    assert images.names == texts.names == sorted(NAMES)
    assert len(shard_paths(images.place)) == 3
    for name in NAMES:
        # The patches themselves follow from features that were rounded to float16.
        assert images.read(name).dtype == np.float16
        np.testing.assert_allclose(images.read(name), patches(name), atol=6e-3)
        assert np.array_equal(texts.read(name), text(name)[:77])
    found = {one.folder.name: one for one in compare(tree, compact)}
    assert found["llava_image"].difference.relative < 5e-4  # float16, twice
    assert found["llava_text"].difference.largest == 0
    assert {one.read for one in found.values()} == {10}
    assert not any(one.problems for one in found.values())
    assert size(folder(compact, "llava_image")) < 0.5 * size(folder(tree, "llava_image"))
    manifest = json.loads((images.place / "manifest.json").read_text())
    assert (manifest["form"], manifest["converted_from"], manifest["features"]) == ("shards", "npy", 10)
    assert json.loads((compact / "record.json").read_text())["versions"]["safetensors"]


def test_compact_becomes_a_published_tree_again(tree: Path, compact: Path, tmp_path: Path) -> None:
    back = tmp_path / "back"
    main(["convert", str(compact), str(back), "--to", "npy"])
    for name in NAMES:
        features = np.load(folder(back, "llava_image") / name)
        original = np.load(folder(tree, "llava_image") / name)
        assert features.dtype == np.float16
        np.testing.assert_allclose(features, original, atol=4e-3, rtol=2e-3)
        assert np.array_equal(np.load(folder(back, "llava_text") / name), text(name)[:77])
    before = content(back)
    (folder(back, "llava_text") / NAMES[3]).unlink()
    main(["convert", str(compact), str(back), "--to", "npy"])
    assert content(back) == before


def test_8_bits_and_what_convert_and_check_say_of_them(
    tree: Path, compact: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    with caplog.at_level("INFO"):
        convert(tree, tmp_path / "eight", "--text-type", "int8")
        convert(compact, tmp_path / "from compact", "--text-type", "int8")
    said = [
        line.rpartition("; ")[2] for line in caplog.messages if "llava_text" in line and "; max error" in line
    ]
    main(["check", str(tree), str(tmp_path / "eight")])
    main(["check", str(tmp_path / "eight")])
    main(["check", str(tmp_path / "eight"), str(tmp_path / "from compact")])
    lines = [line for line in capsys.readouterr().out.splitlines() if "llava_text" in line]
    assert len(said) == 2
    assert lines[0] == lines[1] == f"ego4d/train/llava_text: 10 features read; {said[0]}"
    assert "max error 0," not in lines[0]
    assert "max error 0, mean 0, relative 0" in lines[2]


def test_online_keeps_what_computes_image_features(tree: Path, tmp_path: Path) -> None:
    clip = tmp_path / "clip"
    clip.mkdir()
    for name in ("config.json", "preprocessor_config.json", "pytorch_model.bin", "flax_model.msgpack"):
        (clip / name).write_text(name)
    for _ in range(2):
        convert(tree, tmp_path / "online", "--to", "online", "--clip", str(clip))
    images = folder(tmp_path / "online", "llava_image")
    assert sorted(path.name for path in clip_folder(images).iterdir()) == [
        "config.json", "preprocessor_config.json", "pytorch_model.bin",
    ]  # fmt: skip
    assert projector_path(images).is_file()
    assert not shard_paths(images)
    assert len(Shards(folder(tmp_path / "online", "llava_text")).names) == 10
    with pytest.raises(UserError, match="stores no features, they are computed online"):
        convert(tmp_path / "online", tmp_path / "back", "--to", "npy", "--projector", "x")
    with pytest.raises(UserError, match="--clip: needed for --to online"):
        convert(tree, tmp_path / "other", "--to", "online")
    with pytest.raises(UserError, match=r"no CLIP here; expected a folder with config.json and weights"):
        convert(tree, tmp_path / "other", "--to", "online", "--clip", str(tmp_path))
    assert not (tmp_path / "other").exists()


def test_any_folder_of_the_tree_may_be_converted(tree: Path, compact: Path, tmp_path: Path) -> None:
    assert [str(path) for path, _ in feature_folders(tree)] == [
        "ego4d/train/llava_image",
        "ego4d/train/llava_text",
    ]
    known = ["--projector", str(tree / "projector.safetensors")]
    convert(tree / "ego4d", tmp_path / "a", *known)
    convert(tree / "ego4d/train/llava_text", tmp_path / "b", *known)
    assert content(tmp_path / "a") == content(compact / "ego4d")
    assert content(tmp_path / "b") == content(folder(compact, "llava_text"))


def test_a_killed_run_goes_on(
    tree: Path, compact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, written = module.write_shard, []

    def interrupted(path: Path, *args: Any) -> Any:
        if len(written) == 4:
            left = part_of(path).name.replace(f"-{os.getpid()}-", "-4194305-")  # more than a process's number
            (path.parent / left).write_text("half a shard")
            raise KeyboardInterrupt
        written.append(path)
        return real(path, *args)

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_shard", interrupted)
        with pytest.raises(KeyboardInterrupt):
            convert(tree, tmp_path / "x")
    with pytest.raises(
        UserError, match=r"2 problems, the first: .*llava_text: holds 4 of 10 features; convert again"
    ):
        main(["check", str(tree), str(tmp_path / "x")])
    stamps = {path: path.stat().st_mtime_ns for path in written}
    os.truncate(written[1], 100)
    convert(tree, tmp_path / "x")
    assert content(tmp_path / "x") == content(compact)
    assert {path.stat().st_mtime_ns == stamp for path, stamp in stamps.items() if path != written[1]} == {
        True
    }


def test_damaged_npy_files_are_written_again(compact: Path, tmp_path: Path) -> None:
    argv = ["convert", str(compact), str(tmp_path / "x"), "--to", "npy"]
    main(argv)
    before = content(tmp_path / "x")
    files = sorted((tmp_path / "x").rglob("*.npy"))
    os.truncate(files[0], 0)
    os.truncate(files[-1], 200)
    main(argv)
    assert content(tmp_path / "x") == before


@pytest.mark.slow
def test_sigkill_midway_and_again(tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "tree")
    for number in range(300):
        write_feature(
            folder(tree, "llava_image") / f"more/{number}.npy", projector().features(patches(NAMES[0]))
        )
    argv = [*words(tree, tmp_path / "x"), "--features-per-shard", "2"]
    images = folder(tmp_path / "x", "llava_image")
    with subprocess.Popen([sys.executable, "-m", "egogen.features", *argv], cwd=ROOT) as process:
        while process.poll() is None and len(shard_paths(images)) < 5:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    assert 5 <= len(shard_paths(images)) < 155, "it was killed too late to tell anything"
    main(argv)
    main([*words(tree, tmp_path / "y"), "--features-per-shard", "2"])
    assert content(tmp_path / "x") == content(tmp_path / "y")
    assert not list((tmp_path / "x").rglob(".*.part"))


def test_a_wrong_projector_is_refused_before_anything_is_written(tree: Path, tmp_path: Path) -> None:
    projector(seed=1).write(tmp_path / "other.safetensors")
    near = projector()
    weight = near.weight + 0.01 * projector(seed=1).weight  # as before and after fine-tuning
    np.savez(tmp_path / "near.npz", weight=weight, bias=near.bias)
    np.savez(tmp_path / "wide.npz", weight=np.ones((30, 10), np.float32), bias=np.ones(30, np.float32))
    for name, message in (
        ("other.safetensors", r"relative error 0\.\d+, allowed 0\.002"),
        ("near.npz", r"relative error 0\.0\d+, allowed 0\.002"),
        ("wide.npz", r"features are \(256, 24\), the projector gives width 30"),
    ):
        with pytest.raises(UserError, match=rf"x\.npy: not a feature of this projector \({message}"):
            convert(tree, tmp_path / "x", "--projector", str(tmp_path / name))
    with pytest.raises(UserError, match="--projector: needed for"):
        main(["convert", str(tree), str(tmp_path / "x")])
    assert not (tmp_path / "x").exists()


def test_a_feature_of_another_checkpoint_is_named_midway(tree: Path, tmp_path: Path) -> None:
    source = tmp_path / "tree"
    shutil.copytree(tree, source)
    write_feature(folder(source, "llava_image") / NAMES[5], projector(seed=1).features(patches(NAMES[5])))
    with pytest.raises(UserError, match=rf"{NAMES[5]}: not a feature of this projector"):
        convert(source, tmp_path / "x")
    (folder(source, "llava_image") / NAMES[5]).write_bytes(b"cut off")
    with pytest.raises(UserError, match=rf"{NAMES[5]}: not a readable \.npy file"):
        convert(source, tmp_path / "x")


def test_a_full_disk_is_told(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device", str(tmp_path / "x"))

    monkeypatch.setattr(module, "write_shard", full)
    with pytest.raises(UserError, match="x: No space left on device; the same command goes on"):
        convert(tree, tmp_path / "x")


def test_other_settings_and_sources_are_not_mixed(tree: Path, compact: Path, tmp_path: Path) -> None:
    target = tmp_path / "x"
    shutil.copytree(compact, target)
    with pytest.raises(UserError, match="made with features_per_shard = 4, this run has 5"):
        convert(tree, target, "--features-per-shard", "5")
    with pytest.raises(
        UserError, match=r"llava_text/manifest\.json: .* row_type = 'float16', this run has 'int8'"
    ):
        convert(tree, target, "--text-type", "int8")
    more = tmp_path / "more"
    shutil.copytree(tree, more)
    write_feature(folder(more, "llava_image") / "new.npy", projector().features(patches(NAMES[0])))
    with pytest.raises(UserError, match="made with features = 10, this run has 11"):
        convert(more, target)
    with pytest.raises(UserError, match="is the source itself"):
        convert(tree, tree)
    with pytest.raises(UserError, match=r"holds .npy files already"):
        convert(tree, tmp_path / "y", "--to", "npy")


def test_what_made_the_source_is_remembered(tree: Path, tmp_path: Path) -> None:
    source = tmp_path / "tree"
    shutil.copytree(tree, source)
    write_json(folder(source, "llava_text") / "manifest.json", {"checkpoint": "ab12", "seed": 3})
    convert(source, tmp_path / "x")
    convert(tmp_path / "x", tmp_path / "y", "--to", "npy", "--projector", "unused")
    for root, form in (("x", "shards"), ("y", None)):
        manifest = json.loads((folder(tmp_path / root, "llava_text") / "manifest.json").read_text())
        assert (manifest["checkpoint"], manifest["seed"], manifest.get("form")) == ("ab12", 3, form)


def test_published_variants_of_shape_are_converted(tmp_path: Path) -> None:
    place = tmp_path / "tree/llava_text/a"
    place.mkdir(parents=True)
    np.save(place / "one.npy", text(NAMES[0])[0])  # a single token, squeezed
    np.save(place / "three.npy", text(NAMES[1])[:, None].astype(np.float32))
    convert(tmp_path / "tree", tmp_path / "x", "--projector", "unused")
    shards = Shards(tmp_path / "x/llava_text")
    assert np.array_equal(shards.read("a/one.npy"), text(NAMES[0]))
    assert np.array_equal(shards.read("a/three.npy"), text(NAMES[1]))


def test_check_names_what_is_missing_damaged_or_of_another_shape(
    tree: Path, compact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other, lacking = tmp_path / "compact", tmp_path / "tree"
    shutil.copytree(compact, other)
    shutil.copytree(tree, lacking)
    os.truncate(shard_path(folder(other, "llava_image"), "features", 2), 50)
    (folder(lacking, "llava_text") / NAMES[0]).unlink()
    np.save(folder(lacking, "llava_text") / NAMES[1], np.zeros((3, WIDTH), np.float16))
    np.save(folder(lacking, "llava_text") / NAMES[2], np.full((3, WIDTH), np.nan, np.float16))
    with pytest.raises(SystemExit) as ended:
        run_command(lambda: main(["check", str(lacking), str(other)]))
    assert ended.value.code == 2
    printed = capsys.readouterr()
    for words in (
        "features-00002.safetensors: damaged shard",
        f"{folder(lacking, 'llava_text')}: lacks 1 features, the first is {NAMES[0]}",
        f"{folder(other, 'llava_image')}: lacks 2 features",
        f"{NAMES[1]}: shapes are (3, 24) and (12, 24)",
        f"{NAMES[2]}: features hold values that are not finite",
    ):
        assert words in printed.out
    assert "error: " in printed.err
    with pytest.raises(UserError, match="no folder llava_image or llava_text as in"):
        main(["check", str(tree), str(tmp_path)])
    shutil.rmtree(folder(other, "llava_text"))
    with pytest.raises(UserError, match="problems"):
        main(["check", str(tree), str(other)])
    assert "llava_text: is in one of the stores alone" in capsys.readouterr().out


def test_check_may_take_a_few(tree: Path, compact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["check", str(tree), str(compact), "--items", "3"])
    assert "llava_text: 4 features read" in capsys.readouterr().out


def test_estimates_are_what_stores_take(tree: Path, compact: Path, tmp_path: Path) -> None:
    kept = sum(min(77, len(text(name))) for name in NAMES) / 10
    rows = sum(len(text(name)) for name in NAMES) / 10
    npy = sizes(10, 10, FeatureShape(width=WIDTH, patch_width=PATCH_WIDTH, tokens=round(rows)))["npy"]
    half = sizes(10, 10, FeatureShape(width=WIDTH, patch_width=PATCH_WIDTH, tokens=round(kept)))
    assert [size(folder(tree, kind)) for kind in ("llava_image", "llava_text")] == pytest.approx(
        npy, rel=0.02
    )
    measured = [size(folder(compact, kind)) for kind in ("llava_image", "llava_text")]
    assert measured == pytest.approx(half["compact, text float16"], rel=0.05)
    convert(compact, tmp_path / "x", "--text-type", "int8")
    assert size(folder(tmp_path / "x", "llava_text")) == pytest.approx(
        half["compact, text int8"][1], rel=0.06
    )


def test_estimates_of_a_data_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entry = {"image_1": "b.jpg", "action": "cut"}
    raw = {"a": {"0": {**entry, "image_0": "a.jpg"}, "1": {**entry, "image_0": "a.jpg"}}}
    for split in ("train", "val"):
        write_json(tmp_path / f"EgoGen/ego4d_{split}.json", raw)
    main(["estimate", "--dataset", "ego4d", "--data-root", str(tmp_path)])
    assert "2 image and 4 text features of width 5120" in capsys.readouterr().out
    main(["estimate", "--annotations", str(tmp_path / "EgoGen/ego4d_val.json"), "--width", "64"])
    assert "1 image and 2 text features of width 64" in capsys.readouterr().out
    main(["estimate", "--items", "145000"])
    rows = {line[:22].strip(): line[22:].split() for line in capsys.readouterr().out.splitlines()[3:8]}
    # Against field figures: 380 GB of image features, 76 GB of patches, 114 and 57 GB of text rows.
    assert rows["npy"] == ["380.13", "148.50", "528.63"]
    assert rows["compact, text float16"] == ["76.04", "114.35", "190.39"]
    assert rows["online, text int8"] == ["0.00", "57.25", "57.25"]


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["convert"],
        ["estimate"],
        ["estimate", "--items", "0"],
        ["estimate", "--items", f"1{'0' * 400}"],
        ["estimate", "--items", "9" * 5000],
        ["convert", "a", "b", "--to", "zip"],
        ["pack"],
    ],
)
def test_wrong_words_end_with_code_2(argv: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert ended.value.code == 2


def test_a_source_without_features_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no folder llava_image or llava_text here"):
        convert(tmp_path, tmp_path / "x", "--projector", "x")
    (tmp_path / "llava_text").mkdir()
    with pytest.raises(UserError, match="llava_text: holds no features"):
        convert(tmp_path, tmp_path / "x", "--projector", "x")
    with pytest.raises(UserError, match="none: no folder"):
        convert(tmp_path / "none", tmp_path / "x", "--projector", "x")
