"""Formats: single files to folders and back, the stock pipeline, partial configurations, safe reading."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    EulerAncestralDiscreteScheduler,
    StableDiffusionInstructPix2PixPipeline,
    StableDiffusionPipeline,
)
from safetensors.torch import load_file, save_file

from egogen.cli import run as run_command
from egogen.errors import UserError
from ldm.checkpoints.diffusers_folder import architecture_of
from ldm.checkpoints.published_names import ema_name
from ldm.checkpoints.safe_reading import read
from ldm.checkpoints.source import load_parts, open_source
from ldm.checkpoints.writing import published_state, write
from ldm.convert import main as convert
from ldm.diffusion.schedule import TRAINING_SCHEDULE
from ldm.networks.architecture import UNET, build
from ldm.networks.shapes import Architecture, UNetShape, VAEShape
from ldm.pipeline import LegoPipeline
from tests.ldm.toy_run import ATTENTIVE, WIDTH

# Heads apart, what no tensor tells is as in Stable Diffusion.
UNSTATED = replace(
    ATTENTIVE,
    unet=UNetShape([32, 64], [False, True], 1, heads=4),
    vae=VAEShape([32, 32], 1),
    text=replace(ATTENTIVE.text, width=64, heads=1),
)


def state_of(shape: Architecture, conditioner: bool = True) -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    return published_state(build(shape, conditioner), shape)


@pytest.fixture(scope="module")
def ckpt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("files") / "lego.ckpt"
    write(path, state_of(ATTENTIVE), ATTENTIVE)
    return path


def assert_equal_states(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


@pytest.mark.parametrize("suffix", ["ckpt", "safetensors"])
def test_there_and_back(ckpt: Path, tmp_path: Path, suffix: str) -> None:
    convert(["compvis2diffusers", str(ckpt), str(tmp_path / "folder")])
    again = tmp_path / f"again.{suffix}"
    convert(["diffusers2compvis", str(tmp_path / "folder"), str(again)])
    assert_equal_states(read(ckpt)["state_dict"], read(again)["state_dict"])
    assert architecture_of(load_parts(again)) == ATTENTIVE
    assert {path.name for path in tmp_path.iterdir()} == {"folder", f"again.{suffix}"}


def test_a_folder_trains_and_samples_like_the_file(ckpt: Path, tmp_path: Path) -> None:
    convert(["compvis2diffusers", str(ckpt), str(tmp_path / "folder")])
    one, two = load_parts(ckpt, ATTENTIVE), load_parts(tmp_path / "folder", ATTENTIVE)
    for first, second in zip(one, two, strict=True):
        assert_equal_states(first.state_dict(), second.state_dict())
    with pytest.raises(UserError, match=r"do not belong together; the folder has UNetShape\(channels=\[32"):
        load_parts(tmp_path / "folder", replace(ATTENTIVE, unet=UNetShape([32, 32], [False, True], groups=8)))


def test_averages_are_taken_unless_refused(ckpt: Path, tmp_path: Path) -> None:
    state = read(ckpt)["state_dict"]
    name = "model.diffusion_model.out.2.weight"
    averages = {ema_name(each): value for each, value in state.items() if each.startswith(UNET)}
    write(tmp_path / "ema.ckpt", {**state, **averages, ema_name(name): state[name] + 1}, ATTENTIVE)
    for flags, extra in (([], 1), (["--no-ema"], 0)):
        out = tmp_path / f"folder{extra}"
        convert(["compvis2diffusers", str(tmp_path / "ema.ckpt"), str(out), *flags])
        torch.testing.assert_close(load_parts(out).unet.state_dict()["conv_out.weight"], state[name] + extra)


def test_averages_that_are_no_whole_model_are_refused(ckpt: Path, tmp_path: Path) -> None:
    """Of a part of the UNet, or under names that nobody reads: the last weights would be taken, unsaid."""
    state = read(ckpt)["state_dict"]
    names = [each for each in state if each.startswith(UNET)]
    write(tmp_path / "part.ckpt", {**state, ema_name(names[0]): state[names[0]]}, ATTENTIVE)
    with pytest.raises(UserError, match=rf"averages of 1 of the UNet's {len(names)} weights; .*no-ema"):
        load_parts(tmp_path / "part.ckpt")
    load_parts(tmp_path / "part.ckpt", use_ema=False)
    dotted = f"model_ema.{names[0].removeprefix('model.')}"
    write(tmp_path / "dotted.ckpt", {**state, dotted: state[names[0]]}, ATTENTIVE)
    with pytest.raises(UserError, match=rf"tensor '{dotted}' is unknown in the file"):
        load_parts(tmp_path / "dotted.ckpt")


def test_a_stable_diffusion_folder_is_widened_by_zeros(tmp_path: Path) -> None:
    shape = replace(ATTENTIVE, unet=replace(ATTENTIVE.unet, in_channels=4))
    parts = build(shape, conditioner=False)
    pipeline = LegoPipeline.from_parts(parts)
    stock = StableDiffusionPipeline(
        vae=parts.vae, text_encoder=parts.text_encoder, tokenizer=pipeline.tokenizer, unet=parts.unet,
        scheduler=EulerAncestralDiscreteScheduler(**TRAINING_SCHEDULE), safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    stock.save_pretrained(tmp_path)
    wide = load_parts(tmp_path, conditioner=True, new_conditioner=True)
    assert wide.unet.config.in_channels == 8
    assert torch.equal(wide.unet.conv_in.weight[:, :4], parts.unet.conv_in.weight)
    assert not wide.unet.conv_in.weight[:, 4:].any()
    assert wide.conditioner is not None
    with pytest.raises(UserError, match="has no weights for VLLM features"):
        load_parts(tmp_path, conditioner=True)


def test_the_stock_pipeline_draws_the_same_by_prompt_embeds(tmp_path: Path, ckpt: Path) -> None:
    pipeline = LegoPipeline.from_single_file(ckpt)
    pipeline.save_instruct_pix2pix(tmp_path)
    assert json.loads((tmp_path / "model_index.json").read_text())["_class_name"] == (
        "StableDiffusionInstructPix2PixPipeline"
    )
    stock = StableDiffusionInstructPix2PixPipeline.from_pretrained(tmp_path, safety_checker=None)
    stock.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(2)
    image = torch.rand(2, 3, 32, 32, generator=generator)
    features = [torch.randn(2, tokens, WIDTH, generator=generator) for tokens in (256, 77)]
    latents = torch.randn(2, 4, 16, 16, generator=generator)
    context, null = pipeline.encode_context(["open the box", "cut"], *features)
    assert context.shape == (2, 410, 32)
    # DDIM has one definition in both; ancestral steps would draw noise.
    from ldm.diffusion.sampler import make_scheduler

    scheduler = make_scheduler("ddim")
    stock.scheduler, pipeline.scheduler = scheduler, make_scheduler("ddim")
    expected = stock(
        image=image, prompt_embeds=context, negative_prompt_embeds=null.expand(2, -1, -1), latents=latents,
        num_inference_steps=3, guidance_scale=7.5, image_guidance_scale=1.5, output_type="latent",
    ).images  # fmt: skip
    with pipeline.quiet():
        found = pipeline(
            image * 2 - 1, ["open the box", "cut"], *features, latents=latents, num_inference_steps=3,
            output_type="latent",
        ).images  # fmt: skip
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "config",
    [
        {"unet": {"heads": 4}},
        {"model": {"architecture": {"unet": {"heads": 4}}}},
        {"model": {"params": {"unet_config": {"target": "x", "params": {"num_heads": 4}}}}},
    ],
)
def test_sizes_are_read_off_the_tensors_and_the_rest_off_the_configuration(
    tmp_path: Path, config: dict[str, Any]
) -> None:
    path = tmp_path / "a.ckpt"
    write(path, state_of(UNSTATED))
    shape = open_source(path).sizes(config)
    assert (shape.unet.heads, shape.unet.channels, shape.text.width) == (4, [32, 64], 64)
    assert shape.llm_width == WIDTH
    (tmp_path / "a.yaml").write_text(json.dumps(config))
    assert open_source(path).sizes(tmp_path / "a.yaml") == shape


def test_sizes_that_do_not_exist_are_named(ckpt: Path) -> None:
    with pytest.raises(UserError, match=r"architecture\.unet\.head: no such size; allowed are channels"):
        open_source(ckpt).sizes({"unet": {"head": 4}})
    with pytest.raises(UserError, match="expected sizes by name"):
        open_source(ckpt).sizes({"unet": 4})
    with pytest.raises(UserError, match="no such file"):
        open_source(ckpt).sizes("none.yaml")


def break_folder(folder: Path, how: str) -> None:
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    state = load_file(weights)
    if how == "missing":
        del state["conv_out.weight"]
    elif how == "unknown":
        state["conv_extra.weight"] = torch.zeros(2)
    elif how == "shape":
        state["conv_out.weight"] = state["conv_out.weight"][:, :5].contiguous()
    save_file(state, weights)
    if how == "cut":
        weights.write_bytes(weights.read_bytes()[:1000])
    if how == "part":
        (folder / "vae" / "config.json").unlink()


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("missing", r"unet: tensor 'conv_out\.weight' is missing from"),
        ("unknown", r"unet: tensor 'conv_extra\.weight' is unknown in"),
        ("shape", r"unet: .*conv_out\.weight"),
        ("cut", r"unet: cannot be loaded"),
        ("part", r"vae: has no config\.json"),
    ],
)
def test_damaged_folders_are_named(ckpt: Path, tmp_path: Path, how: str, message: str) -> None:
    convert(["compvis2diffusers", str(ckpt), str(tmp_path / "folder")])
    break_folder(tmp_path / "folder", how)
    with pytest.raises(UserError, match=message):
        load_parts(tmp_path / "folder")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["compvis2diffusers", "{ckpt}", "{folder}"], "is there already"),
        (["compvis2diffusers", "{folder}", "{out}"], "is a folder"),
        (["diffusers2compvis", "{ckpt}", "{out}.ckpt"], "no model_index.json here"),
        (["diffusers2compvis", "{pipeline}", "{out}.bin"], r"expected a name that ends in \.ckpt"),
        (["lora", "{ckpt}", "{out}", "--stock"], "--stock: got True, allowed: none with lora"),
        (["lora", "{ckpt}", "{out}", "--config", "x.yaml"], "--config: got .*, allowed: none with lora"),
        (["lora", "{ckpt}", "{out}", "--bake", "0", "0"], "--bake: got .*, allowed: none with lora"),
    ],
)
def test_wrong_arguments(ckpt: Path, tmp_path: Path, words: list[str], message: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "pipeline" / "model_index.json").write_text("{}")
    places = {name: str(tmp_path / name) for name in ("folder", "pipeline", "out")}
    with pytest.raises(UserError, match=message):
        convert([word.format(ckpt=ckpt, **places) for word in words])


# --- reading files ---------------------------------------------------------------------------------


class Foreign:
    """A type that no published file holds."""


def write_old(path: Path, state: dict[str, torch.Tensor], **more: object) -> None:
    """What Lightning 1.4 left: the callback's type is a key."""
    from pytorch_lightning.callbacks import ModelCheckpoint

    # Under the name by which old files know it.
    ModelCheckpoint.__module__ = "pytorch_lightning.callbacks.model_checkpoint"
    callbacks = {ModelCheckpoint: {"monitor": "val/loss", "best_model_score": torch.tensor(0.1)}}
    torch.save({"state_dict": state, "epoch": 3, "callbacks": callbacks, **more}, path)


def test_known_types_of_old_lightning_files_are_read_over(tmp_path: Path) -> None:
    state = state_of(ATTENTIVE)
    write_old(tmp_path / "old.ckpt", state, architecture={})
    content = read(tmp_path / "old.ckpt")
    assert_equal_states(content["state_dict"], state)
    (key,) = content["callbacks"]
    assert key.__name__ == "Unread"


def test_other_types_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_old(tmp_path / "bad.ckpt", {}, extra=Foreign())
    with pytest.raises(UserError, match=r"bad\.ckpt: refused, it holds more than tensors and plain data"):
        read(tmp_path / "bad.ckpt")
    with pytest.raises(SystemExit, match="2"):
        run_command(lambda: convert(["compvis2diffusers", str(tmp_path / "bad.ckpt"), str(tmp_path / "out")]))
    assert not (tmp_path / "out").exists()
    assert "Traceback" not in capsys.readouterr().err


def test_files_of_the_old_format_are_read(tmp_path: Path) -> None:
    state = state_of(ATTENTIVE)
    torch.save({"state_dict": state}, tmp_path / "old.ckpt", _use_new_zipfile_serialization=False)
    assert_equal_states(read(tmp_path / "old.ckpt")["state_dict"], state)
