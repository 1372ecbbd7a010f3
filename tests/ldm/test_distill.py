"""`python -m ldm.distill` from shipped settings: guidance, phases, a restart; its files by all commands."""

from __future__ import annotations

import json
import logging
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionInstructPix2PixPipeline
from PIL import Image

from egogen.errors import UserError
from egogen.files import read_json, read_yaml
from ldm.checkpoints.published_names import SCALE_LAYER, ema_name
from ldm.checkpoints.safe_reading import read
from ldm.checkpoints.source import load_parts
from ldm.checkpoints.writing import published_state, write
from ldm.config.distillation import DistillConfig
from ldm.config.merge import load_config
from ldm.convert import main as convert
from ldm.distill import main as distill
from ldm.distilling.beginning import load_teacher
from ldm.edit import main as edit
from ldm.networks.architecture import build
from ldm.networks.distilled import DISTILLED, Distilled, read_distilled
from ldm.networks.scales import add_scale_layer, distilled_of, state_distilled
from ldm.pipeline import LegoPipeline
from ldm.sample import main as sample
from ldm.train import main as train
from tests.ldm.test_resume import same
from tests.ldm.toy_run import SHAPE, TRAINING, Run, make_run

CONFIGS = Path(__file__).parents[2] / "configs"
WORDS = [
    *(word for word in TRAINING if not word.startswith("sampling.")),
    "model.gradient_checkpointing=false",
    "data.flip=0",
    "trainer.images=0",
    "trainer.threads=1",
    "trainer.save_every_steps=1",
    "trainer.validate_every_epochs=100",
    "optimizer.schedule=constant",
    "sampling.scales_txt=[3]",
    "sampling.scales_img=[1.5]",
]
LIMITS = {"text": [1.0, 5.0], "image": [1.0, 2.0]}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(autouse=True)
def run_root(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUN_ROOT", str(run.root / "runs"))


@pytest.fixture(scope="module")
def teacher(run: Run) -> Path:
    path = run.root / "lego.ckpt"
    torch.manual_seed(1)
    write(path, published_state(build(SHAPE), SHAPE), SHAPE, 32)
    return path


def command(run: Run, method: str, name: str, teacher: Path, *words: str) -> list[str]:
    base = ["--base", str(CONFIGS / f"distill_{method}_toy.yaml"), "--teacher", str(teacher), "--train"]
    place = ["--name", name, "--logdir", str(run.root / "logs")]
    own = ["distill.phases=2"] if method == "phases" else ["sampling.steps=2"]
    return [*place, *base, *run.words(), *WORDS, *own, *words]


def last(run: Run, method: str, name: str) -> Path:
    return run.root / "logs" / f"distill_{method}_toy_{name}" / "checkpoints" / "last.ckpt"


@pytest.fixture(scope="module")
def guided(run: Run, teacher: Path) -> Path:
    """A student of guidance, trained for two steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RUN_ROOT", str(run.root / "runs"))
        words = ["trainer.max_steps=2", "trainer.images=1", "trainer.images_every_steps=2"]
        distill(command(run, "guidance", "g", teacher, *words))
    return last(run, "guidance", "g")


@pytest.fixture(scope="module")
def phased(run: Run, guided: Path) -> Path:
    """A student of two phases, from that one, trained for three steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RUN_ROOT", str(run.root / "runs"))
        distill(command(run, "phases", "p", guided, "trainer.max_steps=3", "trainer.validate_every_epochs=3"))
    return last(run, "phases", "p")


def test_a_student_states_what_it_was_distilled_for(
    run: Run, teacher: Path, guided: Path, phased: Path
) -> None:
    for path, phases in ((guided, None), (phased, 2)):
        content = read(path)
        assert content[DISTILLED] == {**LIMITS, "phases": phases, "baked": False}
        assert content["state_dict"][SCALE_LAYER].abs().sum() > 0  # it has learnt
    start, end = load_parts(teacher), load_parts(guided)
    for name in ("vae", "text_encoder", "conditioner"):
        kept = getattr(end, name).state_dict()
        assert all(value.equal(kept[own]) for own, value in getattr(start, name).state_dict().items())
    assert phased.with_name("best.ckpt").exists()  # it was validated
    images = run.root / "logs" / "distill_guidance_toy_g" / "images"
    assert [path.name for path in images.iterdir()] == ["step_0000002.png"]
    merged = read_yaml(images.parent / "configs" / "merged.yaml")
    assert merged["model"]["start"] == str(teacher)
    assert merged["distill"]["method"] == "guidance"


def test_a_resumed_distillation_ends_as_one_that_was_not_interrupted(
    run: Run, guided: Path, phased: Path, caplog: pytest.LogCaptureFixture
) -> None:
    distill(command(run, "phases", "again", guided, "trainer.max_steps=1"))
    with caplog.at_level(logging.INFO):
        distill(command(run, "phases", "again", guided, "trainer.max_steps=3"))
    assert "in force from step 1 on: trainer.max_steps: 1 -> 3" in caplog.text
    one, other = read(phased), read(last(run, "phases", "again"))
    assert one["global_step"] == other["global_step"] == 3
    for part in ("state_dict", "optimizer_states", "lr_schedulers", DISTILLED):
        assert same(one[part], other[part]), part
    rest, layer = one["optimizer_states"][0]["param_groups"]
    assert layer["initial_lr"] == pytest.approx(10 * rest["initial_lr"])
    with pytest.raises(UserError, match=r"distill.phases: got 4, the run to resume has 2.*distill.student="):
        distill(command(run, "phases", "again", guided, "distill.phases=4"))


def test_fewer_phases_go_on_from_more(run: Run, guided: Path, phased: Path) -> None:
    more = [f"distill.student={phased}", "distill.phases=1", "trainer.max_steps=1"]
    distill(command(run, "phases", "one", guided, *more))
    content = read(last(run, "phases", "one"))
    assert content[DISTILLED]["phases"] == 1
    before, after = read(phased)["state_dict"], content["state_dict"]
    # One step of Adam from the average that was taken over; 50 steps warm it up.
    assert (after[SCALE_LAYER] - before[ema_name(SCALE_LAYER)]).abs().max() < 2 * 5e-4 / 50


def test_only_a_checkpoint_with_a_path_teaches(run: Run, guided: Path, phased: Path) -> None:
    with pytest.raises(
        UserError, match=r"it jumps over phases, and has no path to follow; the teacher is what"
    ):
        distill(command(run, "phases", "bad", phased))
    with pytest.raises(
        UserError, match=r"distill.text_scales: got \[1.0, 9.0\], allowed: within 1 to 5, for"
    ):
        distill(command(run, "phases", "bad", guided, "distill.text_scales=[1,9]"))
    with pytest.raises(UserError, match=r"jumps over 2 phases; expected .* distill.phases of at most 2"):
        distill(command(run, "phases", "bad", guided, f"distill.student={phased}", "distill.phases=4"))
    baked = run.root / "baked_teacher.ckpt"
    distill(["bake", str(guided), str(baked), "--scales", "3", "1.5"])
    for words in (["phases", "bad", baked], ["phases", "bad", guided, f"distill.student={baked}"]):
        with pytest.raises(UserError, match=r"baked_teacher.ckpt: guidance scales are baked into it; dist"):
            distill(command(run, *words))
    with pytest.raises(UserError, match=r"has no weights for VLLM features"):
        distill(command(run, "guidance", "bad", run.start))
    with pytest.raises(
        UserError, match=r"model.start names no checkpoint; give the checkpoint to distil by --teacher"
    ):
        distill(["--base", str(CONFIGS / "distill_guidance_toy.yaml")])
    for path in (guided, phased, baked):
        words = ["--base", str(CONFIGS / "train_toy.yaml"), *run.words(), f"model.start={path}"]
        with pytest.raises(UserError, match=r"a distilled checkpoint, which training would undo"):
            train(words)
    assert not (run.root / "logs" / "distill_phases_toy_bad").exists()


def draw_split(run: Run, ckpt: Path, out: str, *words: str) -> Path:
    own = ["sampling.scales_txt=[3]", "sampling.scales_img=[1.5]", "sampling.steps=2", "data.resolution=32"]
    places = [word for word in run.words() if word.startswith("data.")]
    folder = run.root / out
    config = str(CONFIGS / "generate_toy.yaml")
    sample(["--config", config, "--ckpt", str(ckpt), "--out", str(folder), *places, *own, *words])
    return folder


def frames(folder: Path) -> dict[str, np.ndarray]:
    found = sorted(path for path in (folder / "images").rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): np.array(Image.open(path)) for path in found}


def test_sample_draws_by_phases_and_by_any_scheduler(run: Run, guided: Path, phased: Path) -> None:
    folder = draw_split(run, phased, "by_phases")
    assert len(frames(folder)) == 3
    assert read_json(folder / "manifest.json")["sampling"]["scheduler"] == "ddim_trailing"
    # Baked, file and folder draw the same but for rounding, which a JPEG enlarges to a level or two.
    baked = run.root / "sampled.ckpt"
    distill(["bake", str(phased), str(baked), "--scales", "3", "1.5"])
    for name, value in frames(draw_split(run, baked, "by_baked")).items():
        assert np.abs(value.astype(int) - frames(folder)[name]).max() <= 2
    assert len(frames(draw_split(run, guided, "by_guided", "sampling.scheduler=dpmpp_2m"))) == 3
    for ckpt, word, message in (
        (
            phased,
            "sampling.steps=16",
            r"sampling.steps: got 16, allowed: 2: this checkpoint was distilled into",
        ),
        (phased, "sampling.scheduler=unipc", r"scheduler: got 'unipc', allowed: ddim_trailing"),
        (guided, "sampling.scales_txt=[3,7.5]", r"sampling.scales_txt: got 7.5, allowed: 1 to 5"),
        (baked, "sampling.scales_img=[1]", r"sampling.scales_img: got 1.0, allowed: 1.5, which is baked in"),
    ):
        with pytest.raises(UserError, match=message):
            draw_split(run, ckpt, "refused", word)
    assert not (run.root / "refused").exists()


def test_edit_draws_one_frame(run: Run, phased: Path) -> None:
    photo, out = run.root / "photo.png", run.root / "edited.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)).save(photo)
    words = ["--input", str(photo), "--prompt", "open it", "--output", str(out), "--ckpt", str(phased)]
    edit([*words, "--steps", "2", "--cfg-text", "3", "--cfg-image", "1.5"])
    assert Image.open(out).size == (43, 32)
    with pytest.raises(UserError, match=r"allowed: 1 to 5, for which this checkpoint was distilled"):
        edit([*words, "--steps", "2", "--cfg-text", "9", "--cfg-image", "1.5"])


def pixels(pipeline: LegoPipeline) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    with pipeline.quiet():
        return pipeline(
            torch.rand(1, 3, 32, 32, generator=generator) * 2 - 1, "open it", num_inference_steps=2,
            guidance_scale=3.0, image_guidance_scale=1.5, generator=generator, output_type="pt",
        ).images  # fmt: skip


def test_folders_and_files_there_and_back(run: Run, phased: Path) -> None:
    root = run.root / "formats"
    wanted = pixels(LegoPipeline.from_single_file(phased))
    convert(["compvis2diffusers", str(phased), str(root / "folder")])
    again = LegoPipeline.from_pretrained(root / "folder")
    assert isinstance(again.scheduler, DDIMScheduler)
    assert distilled_of(again.unet) == Distilled(**LIMITS, phases=2)
    # Weights are equal; on some processors their place in memory decides how sums are rounded.
    alike = partial(torch.testing.assert_close, expected=wanted, rtol=0, atol=1e-5)
    alike(pixels(again))
    alike(pixels(LegoPipeline.from_parts(load_parts(root / "folder"))))
    again.save_pretrained(root / "twice")
    alike(pixels(LegoPipeline.from_pretrained(root / "twice")))
    # The published format and stock pipelines have no place for the scales.
    for words in (
        ["diffusers2compvis", str(root / "folder"), str(root / "file.ckpt")],
        ["diffusers2compvis", str(root / "folder"), str(root / "file.safetensors")],
        ["compvis2diffusers", str(phased), str(root / "stock"), "--stock"],
    ):
        with pytest.raises(UserError, match=r"takes the guidance scales as an input.*--bake W_T W_I"):
            convert(words)
    assert {path.name for path in root.iterdir()} == {"folder", "twice"}
    scales = ["--bake", "3", "1.5"]
    for suffix in ("ckpt", "safetensors"):
        path = root / f"baked.{suffix}"
        convert(["diffusers2compvis", str(root / "folder"), str(path), *scales])
        assert SCALE_LAYER not in read(path)["state_dict"]
        baked = LegoPipeline.from_single_file(path)
        assert distilled_of(baked.unet) == Distilled([3, 3], [1.5, 1.5], 2, baked=True)
        torch.testing.assert_close(pixels(baked), wanted, rtol=0, atol=1e-4)  # 1e-5 in latents
    distill(["bake", str(root / "folder"), str(root / "plain"), "--scales", "3", "1.5"])
    torch.testing.assert_close(
        pixels(LegoPipeline.from_pretrained(root / "plain")), wanted, rtol=0, atol=1e-4
    )
    with pytest.raises(UserError, match=r"baked.ckpt: is there already"):
        distill(["bake", str(phased), str(root / "baked.ckpt"), "--scales", "3", "1.5"])
    with pytest.raises(UserError, match=r"--stock writes a folder"):
        distill(["bake", str(phased), str(root / "other.ckpt"), "--scales", "3", "1.5", "--stock"])


def test_a_baked_stock_folder_is_drawn_by_diffusers_in_as_many_passes_as_phases(
    run: Run, phased: Path
) -> None:
    convert(["compvis2diffusers", str(phased), str(run.root / "stock"), "--stock", "--bake", "3", "1.5"])
    stock = StableDiffusionInstructPix2PixPipeline.from_pretrained(run.root / "stock")
    stock.set_progress_bar_config(disable=True)
    seen: list[int] = []
    stock.unet.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    ours = LegoPipeline.from_parts(load_parts(run.root / "stock"))
    generator = torch.Generator().manual_seed(0)
    source = torch.rand(1, 3, 32, 32, generator=generator) * 2 - 1
    latents = torch.randn(1, 4, 16, 16, generator=generator)
    context, _ = ours.encode_context(["open it"])
    asked = {"num_inference_steps": 2, "latents": latents, "output_type": "latent"}
    # Without its own guidance, which the weights hold already.
    found = stock(prompt_embeds=context, image=source, guidance_scale=1.0, **asked).images
    assert seen == [1, 1]
    with ours.quiet():
        wanted = ours(source, "open it", guidance_scale=3.0, image_guidance_scale=1.5, **asked).images
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
    config = json.loads((run.root / "stock" / "unet" / "config.json").read_text())
    assert config["time_cond_proj_dim"] is None


def test_a_scale_layer_without_its_ranges_is_refused(tmp_path: Path) -> None:
    parts = build(SHAPE)
    add_scale_layer(parts.unet)
    torch.save({"state_dict": published_state(parts, SHAPE)}, tmp_path / "bare.ckpt")
    with pytest.raises(UserError, match=r"bare.ckpt: takes guidance scales as an input, but does not state"):
        load_parts(tmp_path / "bare.ckpt", SHAPE)
    with pytest.raises(UserError, match=r"takes guidance scales as an input, but does not state"):
        LegoPipeline.from_parts(parts)
    for stated, message in (
        ({"text": [1]}, r"x.ckpt: distilled.text: got \[1\]"),
        ({"text": [5, 1], "image": [1, 2]}, r"x.ckpt: distilled.text: got \[5.0, 1.0\], allowed: the lowest"),
        ({"text": [1, 5], "image": [1, 2], "phases": 3}, r"x.ckpt: distilled.phases: got 3"),
        ("all", r"x.ckpt: distilled: got 'all'"),
    ):
        with pytest.raises(UserError, match=message):
            read_distilled(stated, "x.ckpt")
    state_distilled(parts.unet, Distilled([1, 5], [1, 2]))
    assert LegoPipeline.from_parts(parts).unet is parts.unet


@pytest.mark.parametrize("name", ["ego4d", "kitchen", "toy"])
def test_shipped_settings_load(name: str) -> None:
    ranges = ([1.0, 5.0], [1.0, 2.0]) if name == "toy" else ([1.0, 14.0], [1.0, 3.0])
    guidance = load_config(DistillConfig, [CONFIGS / f"distill_guidance_{name}.yaml"])
    phases = load_config(DistillConfig, [CONFIGS / f"distill_phases_{name}.yaml"], ["distill.phases=8"])
    assert (guidance.distill.method, phases.distill.method) == ("guidance", "consistency")
    for config in (guidance, phases):
        assert (config.distill.text_scales, config.distill.image_scales) == ranges
    assert (phases.model.ema_decay, phases.sampling.steps, phases.sampling.scheduler) == (
        0.95,
        8,
        "ddim_trailing",
    )
    if name != "toy":
        assert (guidance.optimizer.lr, guidance.distill.scale_layer_rate) == (1e-5, 10)
        assert (guidance.trainer.effective_batch, guidance.trainer.max_steps) == (256, 5000)
        assert guidance.model.ema_decay == 0.999
        assert guidance.data.dataset == ("ego4d" if name == "ego4d" else "epickitchen")


def test_a_teacher_is_loaded_with_its_averages(guided: Path) -> None:
    ranges = ["distill.text_scales=[1,5]", "distill.image_scales=[1,2]", "sampling.scales_txt=[3]"]
    loaded, parts = load_teacher(load_config(DistillConfig, [], [f"model.start={guided}", *ranges]))
    average = read(guided)["state_dict"][ema_name(SCALE_LAYER)]
    assert parts.unet.time_embedding.cond_proj.weight.equal(average)
    assert loaded.model.architecture == SHAPE
