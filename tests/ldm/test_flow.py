"""Training, resuming and sampling by their commands, at tiny size."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from egogen.errors import UserError
from ldm.checkpoints.safe_reading import read
from ldm.checkpoints.source import load_parts
from ldm.config.merge import load_config
from ldm.config.sections import TrainConfig
from ldm.data.loaders import PairsModule
from ldm.data.order import Key
from ldm.diffusion.sampler import make_scheduler
from ldm.networks.text import make_tokenizer
from ldm.pipeline import LegoPipeline
from ldm.sample import main as sample
from tests.ldm.toy_run import TRAINING, Run, base, fit, make_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(autouse=True)
def run_root(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUN_ROOT", str(run.root / "runs"))


@pytest.fixture(scope="module")
def trained(run: Run) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RUN_ROOT", str(run.root / "runs"))
        return fit(run, "whole") / "checkpoints" / "last.ckpt"


def draw(run: Run, ckpt: Path, out: Path, *words: str) -> dict[str, bytes]:
    config = run.root / "generate.yaml"
    config.write_text("sampling: {steps: 3, output_range: clamp}\n")
    sample(["--config", str(config), "--ckpt", str(ckpt), "--out", str(out), *words, *run.words()])
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in sorted((out / "images").rglob("*"))
        if path.is_file()
    }


def test_training_leaves_checkpoint_pictures_curves_and_settings(run: Run, trained: Path) -> None:
    folder = trained.parents[1]
    assert (folder / "images" / "step_0000004.png").stat().st_size > 0
    assert (folder / "configs" / "merged.yaml").read_text().startswith("model:")
    assert list((folder / "tensorboard").glob("events*"))
    assert read(trained)["resolution"] == 32
    before, after = read(run.start)["state_dict"], read(trained)["state_dict"]
    vae = "first_stage_model.decoder.conv_in.weight"
    unet = "model.diffusion_model.out.2.weight"
    assert torch.equal(before[vae], after[vae])
    assert not torch.equal(before[unet], after[unet])
    assert after["model.diffusion_model.input_blocks.0.0.weight"].shape[1] == 8
    assert int(after["model_ema.num_updates"]) == 4
    assert "model_ema.projection_imgweight" in after


def test_what_training_says(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        fit(run, "said")
    *_, line = (said for said in caplog.messages if said.startswith("train: "))  # more if it took long
    assert line.startswith("train: 4/4 (100 %), ")
    assert "train/loss_simple=" in line
    assert "v_num" not in line
    assert "trained for 4 steps" in caplog.text
    assert "litlogger" not in caplog.text
    assert "weights_only" not in caplog.text


@pytest.mark.slow
def test_a_resumed_run_ends_as_an_uninterrupted_one(
    run: Run, trained: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        fit(run, "halves", "trainer.max_steps=2")
        folder = fit(run, "halves")
    ends = [line for line in caplog.messages if line.startswith("train: ") and "(100 %)" in line]
    assert [line.split()[1] for line in ends] == ["2/2", "4/4"]
    whole, halves = read(trained)["state_dict"], read(folder / "checkpoints" / "last.ckpt")["state_dict"]
    assert whole.keys() == halves.keys()
    assert all(torch.equal(whole[name], halves[name]) for name in whole)


@pytest.mark.slow
def test_cached_latents_are_built_once_and_train(run: Run) -> None:
    words = ["data.cache_latents=true", "data.flip=0"]
    folder = fit(run, "cached", *words)
    state = read(folder / "checkpoints" / "last.ckpt")["state_dict"]
    assert all(value.isfinite().all() for value in state.values())
    caches = sorted((run.root / "runs" / "cache").iterdir())
    assert len(caches) == 2
    for cut in (caches[0] / "text.npy", caches[1] / "manifest.json"):
        whole = cut.read_bytes()
        cut.unlink() if cut.suffix == ".json" else os.truncate(cut, 0)
        (folder / "checkpoints" / "last.ckpt").unlink()
        folder = fit(run, f"cached{len(whole)}", *words)
        assert cut.read_bytes() == whole
    assert sorted((run.root / "runs" / "cache").iterdir()) == caches


def test_published_training_leaves_the_conditioner_at_its_start(run: Run) -> None:
    folder = fit(run, "published", "model.train_conditioner=false", "trainer.max_steps=1", "trainer.seed=5")
    one = read(folder / "checkpoints" / "last.ckpt")["state_dict"]
    folder = fit(run, "published2", "model.train_conditioner=false", "trainer.max_steps=3", "trainer.seed=5")
    three = read(folder / "checkpoints" / "last.ckpt")["state_dict"]
    assert torch.equal(one["projection_img.weight"], three["projection_img.weight"])
    assert "model_ema.projection_imgweight" not in three


def test_frames_do_not_depend_on_batch_or_shard(run: Run, trained: Path, tmp_path: Path) -> None:
    whole = draw(run, trained, tmp_path / "whole")
    assert len(whole) == 3
    image = Image.open(tmp_path / "whole" / next(iter(whole)))
    assert (image.width, image.height, image.format) == (57, 32, "JPEG")
    single = draw(run, trained, tmp_path / "parts", "--batch-size", "1", "--shard", "1/2")
    assert len(single) == 2
    parts = draw(run, trained, tmp_path / "parts", "--batch-size", "2", "--shard", "2/2")
    chunks = [
        draw(run, trained, tmp_path / "chunks", "--n_chunk", "2", "--chunk_idx", str(k)) for k in (1, 2)
    ][-1]
    claimed = draw(run, trained, tmp_path / "claimed", "--shard", "auto/2")
    for name in whole:
        for other, folder in ((parts, "parts"), (chunks, "chunks"), (claimed, "claimed")):
            assert name in other
            first = np.asarray(Image.open(tmp_path / "whole" / name), int)
            second = np.asarray(Image.open(tmp_path / folder / name), int)
            # Sums over a batch of another size may round differently, by one grey level at most.
            assert abs(first - second).max() <= 1


def test_sampling_continues_and_refuses_to_mix(run: Run, trained: Path, tmp_path: Path) -> None:
    first = draw(run, trained, tmp_path)
    victim = tmp_path / next(iter(first))
    for kept in (None, 0, 300, victim.stat().st_size - 2):
        victim.unlink() if kept is None else os.truncate(victim, kept)
        assert draw(run, trained, tmp_path) == first
    with pytest.raises(UserError, match=r"manifest.json: the folder was made with sampling"):
        draw(run, trained, tmp_path, "sampling.seed=1")
    with pytest.raises(UserError, match=r"made with checkpoint"):
        draw(run, run.start, tmp_path, "model.vllm_features=false")


def test_copy_and_png(run: Run, tmp_path: Path) -> None:
    config = run.root / "generate.yaml"
    config.write_text("sampling: {format: png}\n")
    sample(["--config", str(config), "--method", "copy", "--out", str(tmp_path), *run.words()])
    frames = list((tmp_path / "images").rglob("*.png"))
    assert len(frames) == 3
    source = min((run.layout.frames("val") / frames[0].relative_to(tmp_path / "images")).parent.iterdir())
    difference = np.asarray(Image.open(frames[0]), int) - np.asarray(Image.open(source), int)
    assert abs(difference).max() == 0
    assert json.loads((tmp_path / "manifest.json").read_text())["method"] == "copy"


def test_items_that_are_new_are_added_and_changed_ones_refused(run: Run, tmp_path: Path) -> None:
    config, annotations = tmp_path / "generate.yaml", tmp_path / "val.json"
    config.write_text("data: {frame_tars: ''}\n")
    whole = json.loads(run.annotations("val").read_text())
    first = next(iter(whole))
    action = next(iter(whole[first]))

    def copy(clips: object) -> set[str]:
        annotations.write_text(json.dumps(clips))
        words = [*run.words(), f"data.val_annotations={annotations}"]
        sample(["--config", str(config), "--method", "copy", "--out", str(tmp_path / "out"), *words])
        return {str(path) for path in (tmp_path / "out" / "images").rglob("*.jpg")}

    one = copy({first: {action: whole[first][action]}})
    assert len(one) == 1
    (frame,) = one
    before = Path(frame).stat().st_mtime_ns
    assert len(copy(whole)) == 3
    assert Path(frame).stat().st_mtime_ns == before
    whole[first][action]["note"] = "a key that no frame is drawn from"
    assert len(copy(whole)) == 3
    whole[first][action]["image_0"] = whole[first][action]["image_1"]
    with pytest.raises(
        UserError, match=rf"{first}/{action} has another frame or text than when it was drawn"
    ):
        copy(whole)


def test_the_start_checkpoint_is_instruct_pix2pix_without_features(run: Run, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"start.ckpt: has no weights for VLLM features"):
        draw(run, run.start, tmp_path / "a")
    assert len(draw(run, run.start, tmp_path / "b", "model.vllm_features=false")) == 3


@pytest.mark.slow
def test_frames_from_tar_files_train_alike(run: Run, trained: Path) -> None:
    from egogen.pack import main as pack

    for split in ("train", "val"):
        words = ["--dataset", "ego4d", "--split", split, "--out", str(run.root / "tars")]
        pack([*words, "--data-root", str(run.root / "data"), "--frames-per-tar", "4"])
    folder = fit(run, "tars", f"data.frame_tars={run.root / 'tars'}", "data.check=headers")
    whole, tars = read(trained)["state_dict"], read(folder / "checkpoints" / "last.ckpt")["state_dict"]
    assert all(torch.equal(whole[name], tars[name]) for name in whole)


@pytest.mark.slow
def test_cached_latents_train_nearly_alike(run: Run, trained: Path) -> None:
    """The cache rounds to float16; the draws are the same."""
    folder = fit(run, "cache_all", "data.cache_latents=true")
    whole, cached = read(trained)["state_dict"], read(folder / "checkpoints" / "last.ckpt")["state_dict"]
    for name, value in whole.items():
        torch.testing.assert_close(cached[name], value, rtol=0, atol=5e-4, msg=name)


def test_two_data_sets_train_together(run: Run, tmp_path: Path) -> None:
    base_file = base(run)
    paths = "\n".join(
        f"    {key}: {value}"
        for key, value in {
            "root": run.root / "data",
            "train_annotations": run.annotations("train"),
            "val_annotations": run.annotations("val"),
            "features": run.features,
        }.items()
    )
    joint = tmp_path / "joint.yaml"
    joint.write_text(f"joint:\n  - dataset: ego4d\n{paths}\n")
    config = load_config(TrainConfig, [base_file, joint], [*run.words(), *TRAINING])
    parts = load_parts(run.start, config.model.shape, conditioner=True, new_conditioner=True)
    data = PairsModule(config, parts, make_tokenizer())
    train_set, val_set = data.dataset("train"), data.dataset("val")
    assert (len(train_set), len(val_set)) == (12, 6)
    assert train_set[Key(7, 0)]["item"] == train_set[Key(1, 0)]["item"]
    assert data.steps_per_epoch == 3
    assert val_set[5]["t"] == val_set[2]["t"]
    with pytest.raises(IndexError):
        val_set[6]


def test_several_scales_get_a_folder_each(run: Run, trained: Path, tmp_path: Path) -> None:
    draw(run, trained, tmp_path, "sampling.scales_txt=[1.5,7.5]", "sampling.scales_img=[1.0]")
    for name in ("txt1.5_img1", "txt7.5_img1"):
        assert len(list((tmp_path / name / "images").rglob("*.jpg"))) == 3
        manifest = json.loads((tmp_path / name / "manifest.json").read_text())
        assert manifest["sampling"]["scale_txt"] == float(name[3:6])
    one = draw(run, trained, tmp_path / "one", "sampling.scales_txt=[1.5]", "sampling.scales_img=[1.0]")
    (name, content), *_ = one.items()
    assert (tmp_path / "txt1.5_img1" / name).read_bytes() == content


def test_each_process_of_a_launcher_draws_its_share(
    run: Run, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = []
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("WORLD_SIZE", "2")
        counts.append(len(draw(run, trained, tmp_path / "out")))
    assert counts == [2, 3]


def test_bfloat16_frames_are_near_and_not_mixed_with_others(run: Run, trained: Path, tmp_path: Path) -> None:
    plain = draw(run, trained, tmp_path / "plain")
    half = draw(run, trained, tmp_path / "half", "sampling.precision=bf16")
    assert plain.keys() == half.keys()
    for name in plain:
        first, second = (np.asarray(Image.open(tmp_path / kind / name), int) for kind in ("plain", "half"))
        assert abs(first - second).mean() < 8
    with pytest.raises(UserError, match="was made with sampling"):
        draw(run, trained, tmp_path / "plain", "sampling.precision=bf16")


def test_a_folder_of_weights_draws_what_its_file_draws(run: Run, trained: Path, tmp_path: Path) -> None:
    LegoPipeline.from_single_file(trained).save_pretrained(tmp_path / "pipeline")
    assert draw(run, trained, tmp_path / "one") == draw(run, tmp_path / "pipeline", tmp_path / "two")


def test_speed_and_waiting_are_logged(trained: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(trained.parents[1] / "tensorboard")).Reload()
    tags = events.Tags()["scalars"]
    wanted = {"speed/pairs_per_second", "speed/data_wait_share", "epoch_done", "train/gradient_norm"}
    assert wanted <= set(tags)
    assert all(0 <= event.value <= 1 for event in events.Scalars("speed/data_wait_share"))
    assert events.Tags()["images"] == ["source | target | sample"]


@pytest.mark.slow
def test_the_published_average_moves_after_every_batch(run: Run) -> None:
    folder = fit(run, "ema", "model.ema_every=batch", "trainer.max_steps=3", "trainer.images=0")
    state = read(folder / "checkpoints" / "last.ckpt")["state_dict"]
    assert int(state["model_ema.num_updates"]) == 6  # two batches a step


def test_schedulers_do_not_clip_latents() -> None:
    for name in ("ddim", "DDPMScheduler", "PNDMScheduler", "dpmpp_2m"):
        made = make_scheduler(name).config
        assert not made.get("clip_sample")
        assert made.get("timestep_spacing") != "leading" or made["steps_offset"] == 1
