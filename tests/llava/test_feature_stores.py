"""`llava.describe` writes compact and online stores with the features of the published form."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import CLIPVisionModel

from egogen.clip_pixels import FEATURE_LAYER, read_clip_pixels
from egogen.errors import UserError
from egogen.features.feature_shards import Shards
from egogen.features.projector import read_projector
from egogen.features.store import form_of
from egogen.frames import read_frame
from egogen.layout import clip_folder, feature_name, projector_path, shard_paths
from llava.describe import Description, main
from llava.describing import describing_loop, saving
from llava.model import load
from tests.llava.conftest import ORACLE

SPLIT = ORACLE / "generate"
IMAGES = [
    "clip_a/0_pre.jpg",
    "clip_a/1_pre.jpg",
    "clip_b/jpgs/7_pre.jpg",
    "clip_c/0_pre.png",
    "clip_c/3_pre.JPG",
]


def flags(tiny: Path, out: Path, *more: str) -> list[str]:
    return [
        *("--model-path", str(tiny), "--image-dir", str(SPLIT / "images")),
        *("--action-label", str(SPLIT / "ego4d_val.json"), "--save-path", str(out / "texts")),
        *("--save-image-feature-path", str(out / "llava_image")),
        *("--save-text-feature-path", str(out / "llava_text")),
        *("--greedy", "--max-new-tokens", "24", "--device", "cpu", *more),
    ]


@pytest.fixture(scope="module")
def stores(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The recorded frames, described into each store."""
    made = {store: tmp_path_factory.mktemp(store) for store in ("npy", "compact", "online")}
    for store, out in made.items():
        main(flags(tiny, out, "--feature-store", store))
    return made


def image_feature(out: Path, image: str) -> np.ndarray:
    """An image feature by the projector from shards."""
    place = out / "llava_image"
    return read_projector(projector_path(place)).features(Shards(place).read(feature_name(image)))


def test_texts_do_not_depend_on_the_store(stores: dict[str, Path]) -> None:
    texts = {store: (out / "texts/chunk_1_of_1.json").read_bytes() for store, out in stores.items()}
    assert texts["npy"] == texts["compact"] == texts["online"]
    for store in ("compact", "online"):
        shards = Shards(stores[store] / "llava_text")
        assert shards.names == sorted(map(feature_name, IMAGES))
        for name in shards.names:
            np.testing.assert_allclose(
                shards.read(name), np.load(stores["npy"] / "llava_text" / name), atol=2e-3
            )


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def test_image_features_are_those_of_the_published_form_and_the_recorded_ones(
    stores: dict[str, Path],
) -> None:
    recorded = np.load(SPLIT / "features.npz")
    for image in IMAGES:
        compact = image_feature(stores["compact"], image)
        npy = np.load(stores["npy"] / "llava_image" / feature_name(image)).astype(np.float32)
        assert relative(compact, npy) < 5e-4  # float16, twice
        (key,) = [
            name for name in recorded
            if name.split("/")[:2] in (["chunk1", "imgfeat"], ["chunk2", "imgfeat"])
            and Path(name).name.startswith(Path(image).stem) and name.split("/")[2] == image.split("/")[0]
        ]  # fmt: skip
        assert relative(compact, recorded[key]) < 5e-4


def test_online_stores_hold_all_that_computes_image_features(stores: dict[str, Path]) -> None:
    place = stores["online"] / "llava_image"
    assert form_of(place) == "online"
    assert not list(place.rglob("*.npy"))
    assert not shard_paths(place)
    clip = CLIPVisionModel.from_pretrained(clip_folder(place))
    prepare, projector = read_clip_pixels(clip_folder(place), 56), read_projector(projector_path(place))
    for image in IMAGES:
        pixels = torch.from_numpy(prepare(read_frame(SPLIT / "images" / image)))[None]
        with torch.no_grad():
            states = clip(pixels, output_hidden_states=True).hidden_states[FEATURE_LAYER][0, 1:]
        npy = np.load(stores["npy"] / "llava_image" / feature_name(image)).astype(np.float32)
        assert relative(projector.features(states.numpy()), npy) < 5e-4


def test_a_finished_run_loads_no_model(
    stores: dict[str, Path], tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llava.model.load", lambda *_, **__: pytest.fail("the model was loaded"))
    for store, out in stores.items():
        main(flags(tiny, out, "--feature-store", store))


def test_an_interrupted_run_keeps_what_it_has_and_goes_on(
    stores: dict[str, Path], tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = describing_loop.describe, []

    def interrupted(*args: Any, **kwargs: Any) -> list[Description]:
        calls.append(len(args[3]))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(describing_loop, "describe", interrupted)
    monkeypatch.setattr(saving, "SHARD_ITEMS", 2)
    argv = flags(tiny, tmp_path, "--feature-store", "compact", "--batch-size", "1")
    with pytest.raises(KeyboardInterrupt):
        main(argv)
    journal = tmp_path / "texts/chunk_1_of_1.jsonl"
    assert len(journal.read_text().splitlines()) == 3
    names = [path.name for path in shard_paths(tmp_path / "llava_text")]
    assert names == ["chunk_1_of_1-00000.safetensors", "chunk_1_of_1-00001.safetensors"]
    main(argv)
    assert len(calls) == 6  # 3 of 5 were done
    assert len(shard_paths(tmp_path / "llava_image")) == len(shard_paths(tmp_path / "llava_text")) == 3
    same_as(stores["compact"], tmp_path)


def same_as(expected: Path, out: Path) -> None:
    """The same texts and features, within the rounding of sums over other batches."""
    texts = [(folder / "texts/chunk_1_of_1.json").read_bytes() for folder in (expected, out)]
    assert texts[0] == texts[1]
    for kind in ("llava_image", "llava_text"):
        one, other = Shards(expected / kind), Shards(out / kind)
        assert one.names == other.names
        assert all(np.allclose(one.read(name), other.read(name), atol=2e-3) for name in one.names)


def test_lost_shards_and_texts_are_made_again(stores: dict[str, Path], tiny: Path, tmp_path: Path) -> None:
    argv = flags(tiny, tmp_path, "--feature-store", "compact")
    main(argv)
    (shard,) = shard_paths(tmp_path / "llava_image")
    shard.unlink()
    main(argv)
    same_as(stores["compact"], tmp_path)
    # Killed between shards and texts: the features are there twice.
    journal = tmp_path / "texts/chunk_1_of_1.jsonl"
    journal.write_text("".join(journal.read_text().splitlines(keepends=True)[:2]))
    main(argv)
    assert len(shard_paths(tmp_path / "llava_text")) == 3
    same_as(stores["compact"], tmp_path)
    for kind, size in (("llava_text", 99), ("llava_image", 0)):
        os.truncate(shard_paths(tmp_path / kind)[-1], size)
        main(argv)
        same_as(stores["compact"], tmp_path)
        assert len(list((tmp_path / kind).glob("*.damaged"))) == 1


def test_processes_share_a_folder(
    stores: dict[str, Path], tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for store in ("compact", "online"):
        for rank in ("1", "0"):
            monkeypatch.setenv("RANK", rank)
            main(flags(tiny, tmp_path / store, "--feature-store", store))
        texts = Shards(tmp_path / store / "llava_text")
        assert texts.names == Shards(stores["compact"] / "llava_text").names
        assert {path.name for path in shard_paths(texts.place)} == {
            "shard_1_of_2-00000.safetensors", "shard_2_of_2-00000.safetensors",
        }  # fmt: skip


def test_8_bits(stores: dict[str, Path], tiny: Path, tmp_path: Path) -> None:
    main(flags(tiny, tmp_path, "--feature-store", "compact", "--text-type", "int8"))
    eight, half = Shards(tmp_path / "llava_text"), Shards(stores["compact"] / "llava_text")
    for name in half.names:
        bound = np.abs(half.read(name).astype(np.float32)).max(axis=1, keepdims=True) / 254
        assert (np.abs(eight.read(name) - half.read(name)) <= bound * 1.001).all()
    assert json.loads((tmp_path / "llava_image/manifest.json").read_text())["row_type"] == "float16"


@pytest.mark.parametrize(
    ("store", "more", "message"),
    [
        ("npy", ["--feature-store", "compact"], "made with form = None, this run has 'shards'"),
        ("compact", [], "made with form = 'shards', this run has None"),
        ("compact", ["--feature-store", "online"], "made with form = 'shards', this run has 'online'"),
        ("compact", ["--feature-store", "compact", "--text-type", "int8"], "made with row_type = 'float16'"),
        ("compact", ["--feature-store", "compact", "--query", "{}?"], "made with query"),
    ],
)
def test_stores_are_never_mixed(
    stores: dict[str, Path], tiny: Path, store: str, more: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        main(flags(tiny, stores[store], *more))


def test_a_projector_of_two_layers_needs_the_published_form(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load(tiny)
    layers = torch.nn.Sequential(loaded[0].model.multi_modal_projector, torch.nn.GELU())
    loaded[0].model.multi_modal_projector = layers  # as `mlp2x_gelu` has
    monkeypatch.setattr("llava.model.load", lambda *_, **__: loaded)
    with pytest.raises(UserError, match="--feature-store: this checkpoint's projector has two layers"):
        main(flags(tiny, tmp_path, "--feature-store", "compact"))


def test_features_that_are_no_numbers_are_refused(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = describing_loop.describe

    def overflowing(*args: Any, **kwargs: Any) -> list[Description]:
        return [replace(made, patches=made.patches * 1e9) for made in real(*args, **kwargs)]  # type: ignore[operator]

    monkeypatch.setattr(describing_loop, "describe", overflowing)
    with pytest.raises(UserError, match=r"llava_image/clip_.*\.npy: a feature holds .*try --dtype bfloat16"):
        main(flags(tiny, tmp_path, "--feature-store", "compact"))
    assert not shard_paths(tmp_path / "llava_text")
