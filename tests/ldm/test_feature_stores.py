"""Stage 2 reads the same features from every store: in training, resuming, caching and sampling."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPModel, CLIPVisionConfig

from egogen.clip_pixels import read_clip_pixels
from egogen.errors import UserError
from egogen.features import write_feature
from egogen.features.__main__ import main as features
from egogen.features.feature_shards import Shards
from egogen.layout import clip_folder, features_root, projector_path, shard_paths
from ldm.checkpoints.safe_reading import read
from ldm.data.image_features import Vision, VisionFiles, complete, load_vision
from ldm.sample import main as sample
from ldm.train import main as train
from tests.ldm.feature_run import (
    PATCH_WIDTH,
    SHORT,
    STORES,
    batches,
    convert,
    make_stores,
    module,
    words,
)
from tests.ldm.toy_run import WIDTH, Run, training
from tests.llava_oracle import ORACLE, write_published

# Features are rounded to float16; so are patches, whose errors the projector adds up.
TOLERANCE = {"rtol": 2e-3, "atol": 4e-3}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_stores(tmp_path_factory.mktemp("run"))


@pytest.fixture(autouse=True)
def run_root(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUN_ROOT", str(run.root / "runs"))


@pytest.mark.parametrize("workers", ["0", "2"])
@pytest.mark.parametrize("store", ["compact", "online"])
def test_every_store_gives_the_same_features(run: Run, store: str, workers: str) -> None:
    expected = batches(module(run, "npy", "data.workers=0"))
    found = batches(module(run, store, f"data.workers={workers}"))
    assert len(found) == len(expected) == 3
    for one, other in zip(expected, found, strict=True):
        assert one.keys() == other.keys()
        assert one["item"] == other["item"]
        assert torch.equal(one["vllm_text"], other["vllm_text"])
        assert torch.equal(one["source"], other["source"])
        assert other["vllm_image"].shape == (len(one["item"]), 256, WIDTH)
        torch.testing.assert_close(other["vllm_image"], one["vllm_image"], **TOLERANCE)
        relative = (other["vllm_image"] - one["vllm_image"]).norm() / one["vllm_image"].norm()
        assert relative < 5e-4


def test_8_bits_move_text_a_little(run: Run) -> None:
    convert(run, run.root / "eight", "--text-type", "int8")
    expected = batches(module(run, "npy"))[0]["vllm_text"]
    config = ["features.store=compact", f"data.features={run.root / 'eight'}"]
    found = batches(module(run, "compact", *config))[0]["vllm_text"]
    bound = expected.abs().amax(dim=2, keepdim=True) / 254
    assert not torch.equal(expected, found)
    assert ((expected - found).abs() <= bound * 1.001).all()


def fit(run: Run, name: str, store: str, *more: str) -> dict[str, torch.Tensor]:
    train(training(run, name, *words(run, store, *SHORT, *more)))
    state: dict[str, torch.Tensor] = read(checkpoint(run, name))["state_dict"]
    return state


def checkpoint(run: Run, name: str) -> Path:
    return run.root / "logs" / f"tiny_{name}" / "checkpoints" / "last.ckpt"


@pytest.fixture(scope="module")
def trained(run: Run) -> dict[str, dict[str, torch.Tensor]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RUN_ROOT", str(run.root / "runs"))
        return {store: fit(run, store, store) for store in STORES}


@pytest.mark.slow
def test_every_store_trains_alike(run: Run, trained: dict[str, dict[str, torch.Tensor]]) -> None:
    for store in STORES[1:]:
        assert trained[store].keys() == trained["npy"].keys()  # nothing of CLIP gets into a checkpoint
        for name, value in trained["npy"].items():
            torch.testing.assert_close(trained[store][name], value, rtol=0, atol=5e-4, msg=name)
    assert (run.root / "logs/tiny_online/images/step_0000002.png").stat().st_size > 0


@pytest.mark.slow
@pytest.mark.parametrize("store", ["compact", "online"])
def test_resuming_stays_exact(run: Run, trained: dict[str, dict[str, torch.Tensor]], store: str) -> None:
    workers = "data.workers=2"
    fit(run, f"{store}_halves", store, "trainer.max_steps=1", workers)
    halves = fit(run, f"{store}_halves", store, workers)
    assert all(torch.equal(value, halves[name]) for name, value in trained[store].items())


def test_cached_latents_with_features_computed_online(
    run: Run, trained: dict[str, dict[str, torch.Tensor]]
) -> None:
    """The cache holds frames and texts, mirrored ones too; features are those of the plain frame."""
    cached = fit(run, "online_cached", "online", "data.cache_latents=true")
    for name, value in trained["online"].items():
        torch.testing.assert_close(cached[name], value, rtol=0, atol=6e-4, msg=name)
    caches = sorted(path.name for path in (run.root / "runs/cache").iterdir())
    module(run, "compact", "data.cache_latents=true").dataset("train")
    assert sorted(path.name for path in (run.root / "runs/cache").iterdir()) == caches


def draw(run: Run, store: str, out: Path, *more: str) -> dict[str, np.ndarray]:
    config = run.root / "generate.yaml"
    config.write_text("sampling: {steps: 3, output_range: clamp, format: png}\n")
    flags = ["--config", str(config), "--ckpt", str(checkpoint(run, "npy")), "--out", str(out)]
    sample([*flags, *words(run, store, *more)])
    return {str(path.relative_to(out)): np.asarray(Image.open(path), int) for path in out.rglob("*.png")}


@pytest.mark.usefixtures("trained")
def test_every_store_draws_alike(run: Run, tmp_path: Path) -> None:
    expected = draw(run, "npy", tmp_path / "npy")
    assert len(expected) == 3
    for store in STORES[1:]:
        found = draw(run, store, tmp_path / store)
        assert found.keys() == expected.keys()
        assert max(abs(found[name] - expected[name]).max() for name in expected) <= 3
    assert "feature_store" in json.loads((tmp_path / "online/manifest.json").read_text())
    with pytest.raises(
        UserError, match="made with feature_store = None, this run has 'online, text float16'"
    ):
        draw(run, "online", tmp_path / "npy")


def test_frames_in_tar_files_may_be_seen_online(run: Run) -> None:
    from egogen.pack import main as pack

    for split in ("train", "val"):
        where = ["--out", str(run.root / "tars"), "--data-root", str(run.root / "data")]
        pack(["--dataset", "ego4d", "--split", split, *where])
    expected = batches(module(run, "online"))
    found = batches(module(run, "online", f"data.frame_tars={run.root / 'tars'}"))
    assert all(
        torch.equal(one["vllm_image"], other["vllm_image"])
        for one, other in zip(expected, found, strict=True)
    )


def test_each_data_set_has_its_own_projector(run: Run, tmp_path: Path) -> None:
    """Two data sets may have been described by two checkpoints."""
    other = tmp_path / "compact"
    shutil.copytree(run.root / "compact", other)
    for split in ("train", "val"):
        place = features_root(other, "ego4d", split, "llava_image")
        for path in shard_paths(place):
            path.unlink()
        projector_path(place).unlink()
        np.savez(
            tmp_path / "double.npz", weight=np.eye(WIDTH, PATCH_WIDTH, dtype=np.float32), bias=np.zeros(24)
        )
        (place / "manifest.json").unlink()
        source = tmp_path / "npy" / "ego4d" / split / "llava_image"
        for path in features_root(run.features, "ego4d", split, "llava_image").rglob("*.npy"):  # type: ignore[arg-type]
            patches = np.random.default_rng(len(path.name)).normal(size=(256, PATCH_WIDTH))
            values = np.pad(patches, ((0, 0), (0, WIDTH - PATCH_WIDTH)))
            write_feature(
                source / path.relative_to(features_root(run.features, "ego4d", split, "llava_image")), values
            )
        features(["convert", str(source), str(place), "--projector", str(tmp_path / "double.npz")])
    paths = {
        "root": run.root / "data",
        "train_annotations": run.annotations("train"),
        "val_annotations": run.annotations("val"),
        "features": other,
    }
    joint = [f"joint=[{{dataset: ego4d, {', '.join(f'{key}: {path}' for key, path in paths.items())}}}]"]
    data = module(run, "compact", *joint, "data.batch_size=6", "trainer.effective_batch=6")
    assert len(data.visions) == 2
    (batch,) = [data.on_after_batch_transfer(batch, 0) for batch in data.val_dataloader()]
    (expected,) = [
        one.on_after_batch_transfer(batch, 0)
        for one in [module(run, "compact", "data.batch_size=3", "trainer.effective_batch=3")]
        for batch in one.val_dataloader()
    ]
    torch.testing.assert_close(batch["vllm_image"][:3], expected["vllm_image"])
    assert not batch["vllm_image"][3:, :, PATCH_WIDTH:].any()


# --- the recorded numbers of stage 1 -------------------------------------------------------------------


def test_online_features_are_the_recorded_ones(tmp_path: Path) -> None:
    """CLIP, its preparation of frames, and the projector give what the authors' code has written."""
    checkpoint = write_published(tmp_path)
    recorded = np.load(ORACLE / "generate" / "features.npz")
    names = {
        name.removeprefix("chunk1/imgfeat/"): name for name in recorded if name.startswith("chunk1/imgfeat/")
    }
    for name, key in names.items():
        write_feature(tmp_path / "npy/llava_image" / name, recorded[key])
    known = ["--projector", str(checkpoint), "--clip", str(tmp_path / "openai/clip-tiny-v")]
    for store in STORES[1:]:
        features(["convert", str(tmp_path / "npy"), str(tmp_path / store), "--to", store, *known])
    features(["check", str(tmp_path / "npy"), str(tmp_path / "compact")])
    compact = VisionFiles.of(tmp_path / "compact/llava_image", online=False)
    online = VisionFiles.of(tmp_path / "online/llava_image", online=True)
    visions = {files.digest: files for files in (compact, online)}
    prepare = read_clip_pixels(clip_folder(online.folder), 56)
    shards = Shards(compact.folder)
    frames = {"clip_a/0_pre.npy": "clip_a/0_pre.jpg", "clip_b/npys/7_pre.npy": "clip_b/jpgs/7_pre.jpg"}
    for name, frame in frames.items():
        pixels = prepare(Image.open(ORACLE / "generate/images" / frame).convert("RGB"))
        for files, key, seen in (
            (compact, "clip_patches", shards.read(name)),
            (online, "clip_pixels", pixels),
        ):
            batch = complete({key: torch.from_numpy(seen)[None], "vision": [files.digest]}, visions)
            assert list(batch) == ["vllm_image"]
            found, expected = batch["vllm_image"][0].numpy(), recorded[names[name]]
            relative = np.linalg.norm(found - expected) / np.linalg.norm(expected)
            assert relative < (5e-4 if key == "clip_patches" else 1e-5)


def test_a_whole_clip_serves_as_well(run: Run, tmp_path: Path) -> None:
    vision = CLIPVisionConfig.from_pretrained(run.root / "clip").to_dict()
    text = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    whole = CLIPModel(CLIPConfig(vision_config=vision, text_config=text))
    whole.save_pretrained(tmp_path / "clip")
    shutil.copy(run.root / "mm_projector.safetensors", tmp_path / "projector.safetensors")
    before = torch.random.get_rng_state()
    loaded = load_vision(VisionFiles.of(tmp_path, online=True))
    assert torch.equal(before, torch.random.get_rng_state())
    assert loaded.clip is not None
    expected = whole.vision_model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in loaded.clip.state_dict().items())


def test_autocast_does_not_reach_the_features(run: Run) -> None:
    vision: Vision = load_vision(next(iter(module(run, "online").visions.values())))
    pixels = torch.randn(2, 3, 64, 64)
    with torch.autocast("cpu", torch.bfloat16):
        inside = vision(pixels)
    assert torch.equal(inside, vision(pixels))
