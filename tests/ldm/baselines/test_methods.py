"""`ldm.sample --method`: every method draws the split, alone as in a batch, and says what it will not do."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from egogen.errors import UserError
from egogen.files import read_json, write_json
from egogen.layout import features_root
from ldm.checkpoints.diffusers_folder import check_settings
from ldm.checkpoints.source import load_parts
from ldm.checkpoints.writing import published_state, write
from ldm.config.merge import load_config
from ldm.config.sections import GenerateConfig, TrainConfig
from ldm.networks import precision
from ldm.networks.architecture import build
from ldm.networks.precision import Precisions
from ldm.sample import main as sample
from ldm.sampling import methods
from ldm.sampling.method_names import METHODS, PLAIN, SECTIONED
from tests.ldm.baselines.tiny_pipelines import img2img, write_pipeline
from tests.ldm.toy_run import ATTENTIVE, Run, make_run
from tests.workbench import ROOT

CONFIGS = ROOT / "configs"
QUICK = {
    "lego": ["sampling.steps=3"],
    "ip2p": ["sampling.steps=3", "data.text_key=action"],
    "sdedit": ["sdedit.steps=4"],
    "proxnpi": ["proxnpi.steps=3"],
    "proxmasactrl": ["proxmasactrl.steps=3", "proxmasactrl.masa_layer=1", "proxmasactrl.masa_step=1"],
    "pipeline": ["pipeline.arguments={num_inference_steps: 4}"],
    "copy": [],
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """With checkpoints of LEGO and InstructPix2Pix beside the plain Stable Diffusion."""
    made = make_run(tmp_path_factory.mktemp("run"), ATTENTIVE)
    write_pipeline(made.root / "pipeline.ckpt", img2img())
    torch.manual_seed(1)
    for name, conditioner in (("lego", True), ("ip2p", False)):
        write(
            made.root / f"{name}.ckpt", published_state(build(ATTENTIVE, conditioner), ATTENTIVE), ATTENTIVE
        )
    return made


def draw(run: Run, method: str, out: Path, *words: str, ckpt: str | None = None) -> dict[str, np.ndarray]:
    """Frames by name."""
    config = run.root / "generate.yaml"
    config.write_text("sampling: {output_range: clamp, format: png}\n")
    name = ckpt or ("start" if method in PLAIN else method)
    flags = [] if method == "copy" else ["--ckpt", str(run.root / f"{name}.ckpt")]
    flags += ["--config", str(config), "--method", method, "--out", str(out)]
    sample([*flags, *run.words(), *QUICK[method], *words])
    return {
        str(path.relative_to(out)): np.asarray(Image.open(path), int) for path in sorted(out.rglob("*.png"))
    }


@pytest.mark.parametrize("method", METHODS)
def test_every_method_draws_the_same_frames(run: Run, method: str, tmp_path: Path) -> None:
    """Alone, in a batch, and in another order; into a folder that names it."""
    together = draw(run, method, tmp_path / "batch")
    alone = draw(run, method, tmp_path / "alone", "--batch-size", "1")
    assert together.keys() == alone.keys()
    assert len(together) == 3
    for name, frame in together.items():
        assert frame.shape == (32, 57, 3)
        assert abs(frame - alone[name]).max() <= 1  # sums over other batches round differently
    manifest = json.loads((tmp_path / "batch" / "manifest.json").read_text())
    assert manifest["method"] == method
    assert (method in manifest) == (method in SECTIONED)
    assert draw(run, method, tmp_path / "batch").keys() == together.keys()


@pytest.mark.parametrize("method", PLAIN)
def test_another_setting_of_a_method_is_another_run(run: Run, method: str, tmp_path: Path) -> None:
    draw(run, method, tmp_path)
    with pytest.raises(UserError, match=rf"the folder was made with {method}\.guidance = "):
        draw(run, method, tmp_path, f"{method}.guidance=2")


def test_other_features_are_another_run(run: Run, tmp_path: Path) -> None:
    """As those of the untuned model."""
    other = tmp_path / "other"
    shutil.copytree(run.features, other)
    write_json(
        features_root(other, "ego4d", "val", "llava_text") / "manifest.json", {"checkpoint": "untuned"}
    )
    draw(run, "lego", tmp_path / "out", "--shard", "1/2")
    with pytest.raises(UserError, match=r"the folder was made with features\.llava_text of another content"):
        draw(run, "lego", tmp_path / "out", "--shard", "2/2", f"data.features={other}")
    assert len(draw(run, "ip2p", tmp_path / "ip2p", f"data.features={other}")) == 3


def test_copies_do_not_depend_on_what_draws(run: Run, tmp_path: Path) -> None:
    draw(run, "copy", tmp_path)
    assert len(draw(run, "copy", tmp_path, "sampling.seed=5", "sampling.precision=bf16")) == 3


def test_manifests_say_what_each_part_computed_in(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And frames of a CPU whose tiles took the VAE along are not mixed with those of one without."""
    monkeypatch.setattr(precision, "has_tiles", lambda: True)
    draw(run, "ip2p", tmp_path / "half", "--shard", "1/2", "sampling.precision=bf16")
    stated = read_json(tmp_path / "half" / "manifest.json")["sampling"]
    assert (stated["precision"], stated["precision_vae"]) == ("bf16", "bf16")
    monkeypatch.setattr(precision, "has_tiles", lambda: False)
    with pytest.raises(UserError, match="the folder was made with sampling"):
        draw(run, "ip2p", tmp_path / "half", "--shard", "2/2", "sampling.precision=bf16")
    draw(run, "ip2p", tmp_path / "full", "--shard", "1/2")
    stated = read_json(tmp_path / "full" / "manifest.json")["sampling"]
    assert stated["precision"] == "32"
    # What folders of older versions do not state.
    assert not {"precision_vae", "interval_txt", "interval_img", "timesteps", "adapt"} & stated.keys()


def test_frames_that_nothing_vouches_for_are_not_taken_over(run: Run, tmp_path: Path) -> None:
    draw(run, "copy", tmp_path, "--shard", "1/2")
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(UserError, match=r"has frames but no manifest.json, which says what drew them"):
        draw(run, "copy", tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file: is a file; --out names a folder"):
        draw(run, "copy", tmp_path / "file")


def test_frames_that_are_not_finite_are_named_and_the_others_written(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = methods.sdedit

    def spoiled(*args: Any) -> Tensor:
        latents = made(*args)
        latents[1] = float("nan")
        return latents

    monkeypatch.setattr(methods, "sdedit", spoiled)
    with pytest.raises(UserError, match=r"\.png: not finite, as are 1 of 3 frames; they are not written"):
        draw(run, "sdedit", tmp_path)
    assert len(list(tmp_path.rglob("*.png"))) == 2
    monkeypatch.undo()
    monkeypatch.setenv("RUN_ROOT", str(tmp_path))
    assert len(draw(run, "sdedit", tmp_path)) == 3


def test_32_bits_are_32_bits(run: Run) -> None:
    parts = load_parts(run.start, inputs=4)
    for unet, products in (("bf16", "high"), ("32", "highest")):
        methods.prepare(parts, torch.device("cpu"), Precisions(unet, "32"), False)
        assert torch.get_float32_matmul_precision() == products
        assert torch.backends.cudnn.allow_tf32 == (products == "high")


def test_what_fails_before_the_first_frame_claims_no_folder(run: Run, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"proxmasactrl.masa_layer: got 10, allowed: 0 to 4, the number of"):
        draw(run, "proxmasactrl", tmp_path, "proxmasactrl.masa_layer=10")
    assert len(draw(run, "proxmasactrl", tmp_path)) == 3


@pytest.mark.parametrize("method", ["ip2p", *PLAIN])
def test_the_checkpoint_must_be_of_the_methods_kind(run: Run, method: str, tmp_path: Path) -> None:
    other, channels = ("start", 4) if method == "ip2p" else ("ip2p", 8)
    with pytest.raises(UserError, match=rf"{other}.ckpt: its UNet takes {channels} channels; this method"):
        draw(run, method, tmp_path, ckpt=other)


def test_a_diffusers_folder_of_stable_diffusion_serves_as_well(run: Run, tmp_path: Path) -> None:
    parts, folder = load_parts(run.start, inputs=4), run.root / "plain.ckpt"
    for name in ("unet", "vae", "text_encoder"):
        getattr(parts, name).save_pretrained(folder / name)
    write_json(folder / "model_index.json", {})
    expected = draw(run, "sdedit", tmp_path / "file")
    for name, frame in draw(run, "sdedit", tmp_path / "folder", ckpt="plain").items():
        assert abs(frame - expected[name]).max() <= 1
    with pytest.raises(UserError, match=r"plain.ckpt: its UNet takes 4 channels; this method needs Instruct"):
        draw(run, "ip2p", tmp_path / "ip2p", ckpt="plain")


@pytest.mark.parametrize(
    ("name", "key", "value", "allowed"),
    [
        ("scheduler/scheduler_config.json", "prediction_type", "v_prediction", "epsilon"),
        ("scheduler/scheduler_config.json", "beta_schedule", "linear", "scaled_linear"),
        ("scheduler/scheduler_config.json", "rescale_betas_zero_snr", True, "False"),
        ("scheduler/scheduler_config.json", "trained_betas", [0.1], "None"),
        ("vae/config.json", "shift_factor", 0.1, "None"),
        ("vae/config.json", "latents_mean", [1.0], "None"),
        ("unet/config.json", "norm_eps", 0.01, "1e-05"),
        ("unet/config.json", "mid_block_scale_factor", 2.0, "1"),
        ("text_encoder/config.json", "layer_norm_eps", 0.01, "1e-05"),
        ("vae/config.json", "scaling_factor", 0.13025, "0.18215"),
        ("unet/config.json", "flip_sin_to_cos", False, "True"),
        ("unet/config.json", "addition_embed_type", "text_time", "None"),
        ("text_encoder/config.json", "hidden_act", "gelu", "quick_gelu"),
    ],
)
def test_a_folder_that_works_otherwise_is_refused(
    tmp_path: Path, name: str, key: str, value: object, allowed: str
) -> None:
    """Of Stable Diffusion 2 and XL: their settings would be lost on the way to our schedule and files."""
    write_json(tmp_path / name, {key: value})
    with pytest.raises(UserError, match=re.escape(f"{name}: {key}: got {value!r}, allowed: {allowed}")):
        check_settings(tmp_path)
    write_json(tmp_path / name, {})  # older files do not say
    check_settings(tmp_path)


@pytest.mark.parametrize("part", ["unet", "vae", "conditioner"])
def test_a_setting_that_would_be_passed_over_is_refused(tmp_path: Path, part: str) -> None:
    """Diffusers warns of it and goes on: a later version's model would draw otherwise."""
    write_json(
        tmp_path / part / "config.json", {"_note": "x", "later": None, "other": False, "zero_cond_t": True}
    )
    with pytest.raises(UserError, match=rf"{part}/config.json: zero_cond_t: no setting of \w+ here"):
        check_settings(tmp_path)
    # What diffusers' own averages write beside a UNet says nothing of it.
    write_json(tmp_path / part / "config.json", {"decay": 0.9999, "optimization_step": 15000, "power": 0.7})
    check_settings(tmp_path)


def test_ip2p_takes_a_lego_checkpoint_without_its_features(run: Run, tmp_path: Path) -> None:
    assert len(draw(run, "ip2p", tmp_path, "data.features=nowhere", ckpt="lego")) == 3


@pytest.mark.parametrize(
    ("method", "words", "message"),
    [
        ("sdedit", ["proxnpi.steps=5"], r"'proxnpi.steps=5': --method sdedit does not use it"),
        ("proxnpi", ["proxnpi.reweight=[3]"], r"proxnpi.reweight: got \[3\], allowed: values by name"),
        ("lego", ["pipeline.resolution=8"], r"--method lego does not use it"),
        ("lego", ["sdedit.strength=0.5"], r"--method lego does not use it"),
        ("proxnpi", ["sampling.steps=5"], r"'sampling.steps=5': --method proxnpi does not use it"),
        ("sdedit", ["proxnpi={steps: 5}"], r"'proxnpi={steps: 5}': --method sdedit does not use it"),
        ("copy", ["sampling.scales_txt=[1,2]"], r"--method copy does not use it"),
        (
            "lego",
            ["sampling.scales_txt=[1,nan]"],
            r"sampling.scales_txt.1: got '?nan'?, allowed: a finite number",
        ),
        ("proxnpi", ["proxnpi.reweight={spatula: 3}"], r"reweight: got 'spatula', allowed: words of the"),
        ("proxnpi", ["proxnpi.blend_word=cup"], r"unknown key 'proxnpi.blend_word'"),
        ("sdedit", ["sdedit.strenght=1"], r"unknown key 'sdedit.strenght'; did you mean 'sdedit.strength'"),
        ("proxnpi", ["sampling.compile=true"], r"compile: got True, allowed: false with --method proxnpi"),
        ("proxnpi", ["proxnpi.controller=replace"], r"'' has 0 words, target 'the hand .* equally many"),
        ("proxnpi", ["proxnpi.source_prompt=caption"], r"needs BLIP, model_base_caption.*vocab.txt"),
        ("proxmasactrl", ["proxmasactrl.source_prompt=fixed"], r"source_text: got '', allowed: a text with"),
    ],
)
def test_wrong_settings_of_methods(
    run: Run, method: str, words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEIGHTS_ROOT", str(tmp_path / "weights"))
    with pytest.raises(UserError, match=message) as caught:
        draw(run, method, tmp_path / "out", *words)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_settings_may_stand_among_the_flags(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("{}")
    first, *others = run.words()
    flags = ["--config", str(tmp_path / "a.yaml"), "--method", "sdedit", first, "--ckpt", str(run.start)]
    sample([*flags, *others, "sdedit.steps=4", "--out", str(tmp_path / "out"), "sdedit.guidance=1"])
    assert read_json(tmp_path / "out" / "manifest.json")["sdedit"]["guidance"] == 1


@pytest.mark.parametrize("path", sorted((CONFIGS / "methods").glob("*.yaml")), ids=lambda path: path.name)
@pytest.mark.parametrize("base", ["generate_ego4d.yaml", "generate_kitchen.yaml", "generate_toy.yaml"])
def test_the_methods_configurations_load(path: Path, base: str) -> None:
    config = load_config(GenerateConfig, [CONFIGS / base, path])
    assert config.data.text_key == "action"
    if path.stem == "ip2p":
        assert not load_config(TrainConfig, [CONFIGS / "train_ego4d.yaml", path]).model.vllm_features


@pytest.mark.parametrize("path", sorted((CONFIGS / "ablation").glob("*.yaml")), ids=lambda path: path.name)
@pytest.mark.parametrize("dataset", ["ego4d", "kitchen"])
def test_the_ablations_configurations_load(path: Path, dataset: str) -> None:
    """The same file lays over training and drawing."""
    found = []
    for kind, base in ((TrainConfig, f"train_{dataset}.yaml"), (GenerateConfig, f"generate_{dataset}.yaml")):
        model = load_config(kind, [CONFIGS / base, path]).model
        found.append((model.vllm_features, *model.streams))
        with torch.device("meta"):
            build(model.shape, model.vllm_features, model.streams)
    assert found[0] == found[1]
    assert found[0][0] == (path.stem != "description")
