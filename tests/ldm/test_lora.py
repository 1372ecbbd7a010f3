"""A training of adapters: resumed exactly, read by every command and by stock diffusers, merged."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from egogen.errors import UserError
from egogen.manifest import file_hash
from ldm.checkpoints.safe_reading import LORA, read
from ldm.checkpoints.source import load_parts
from ldm.config.distillation import DistillConfig
from ldm.config.merge import load_config
from ldm.config.sections import TrainConfig
from ldm.convert import main as convert
from ldm.distilling.beginning import load_teacher
from ldm.edit import main as edit
from ldm.lora_module import LoraDiffusion
from ldm.page.choosing import Chosen
from ldm.page.engine import load_engine
from ldm.page.page_options import PageOptions
from ldm.pipeline import LegoPipeline
from ldm.sample import main as sample
from ldm.train import main as train
from ldm.training.run import load
from tests.ldm.toy_run import OVERRIDES, Run, make_run, training

SETTINGS = [
    "model.lora={rank: 4, alpha: 6}", "trainer.images=0", "trainer.threads=1", "trainer.max_steps=3",
    "model.ema_decay=0.5", "model.gradient_checkpointing=false",
]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    root = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RUN_ROOT", str(root / "runs"))
        yield make_run(root)


def fit(run: Run, name: str, *words: str) -> Path:
    train(training(run, name, *SETTINGS, *words))
    return run.root / "logs" / f"tiny_{name}"


@pytest.fixture(scope="module")
def whole(run: Run) -> Path:
    return fit(run, "whole")


@pytest.fixture(scope="module")
def last(whole: Path) -> Path:
    return whole / "checkpoints" / "last.ckpt"


def predict(unet: UNet2DConditionModel) -> torch.Tensor:
    """What a UNet says of fixed inputs."""
    draws = torch.Generator().manual_seed(0)
    latents, context = (torch.randn(shape, generator=draws) for shape in ((2, 8, 16, 16), (2, 9, 32)))
    with torch.no_grad():
        return unet.eval()(latents, torch.tensor([10, 700]), context).sample


def losses(folder: Path) -> dict[int, float]:
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    return {event.step: event.value for event in events.Scalars("train/loss_simple")}


def test_a_resumed_run_is_as_one_that_was_left_alone(run: Run, whole: Path, last: Path) -> None:
    """Bit by bit: losses, weights, averages, moments."""
    fit(run, "halves", "trainer.max_steps=2")
    halves = fit(run, "halves")
    assert losses(halves) == losses(whole)
    assert len(losses(whole)) == 3
    one, other = read(last), read(halves / "checkpoints" / "last.ckpt")
    assert one["state_dict"].keys() == other["state_dict"].keys()
    for name, value in one["state_dict"].items():
        assert torch.equal(value, other["state_dict"][name]), name
    moments = [content["optimizer_states"][0]["state"] for content in (one, other)]
    assert len(moments[0]) == len(moments[1]) > 0
    for key, state in moments[0].items():
        assert all(torch.equal(value, moments[1][key][name]) for name, value in state.items())


def test_the_file_holds_what_is_trained_and_names_its_base(run: Run, last: Path) -> None:
    content = read(last)
    state = content["state_dict"]
    assert content[LORA] == {
        "settings": {"rank": 4, "alpha": 6.0, "targets": ["to_q", "to_k", "to_v", "to_out.0", "conv_in"]},
        "base": f"{run.start.resolve()}",
        "sha256": file_hash(run.start),
    }
    assert not [name for name in state if "diffusion_model" in name or "first_stage" in name]
    assert state["unet.conv_in.lora_A.weight"].shape == (4, 8, 3, 3)
    assert {
        "projection_img.weight",
        "model_ema.projection_imgweight",
        "model_ema.unetconv_inlora_Bweight",
    } < set(state)
    assert state["unet.conv_in.lora_B.weight"].abs().max() > 0


@pytest.fixture(scope="module")
def merged(last: Path) -> UNet2DConditionModel:
    return load_parts(last).unet


def test_merged_weights_predict_as_the_adapters_do(
    run: Run, last: Path, merged: UNet2DConditionModel
) -> None:
    """Witness: peft's layers, with the last and the averaged weights; 1e-5 of predictions of about 1."""
    config = load_config(TrainConfig, [], [*OVERRIDES, *SETTINGS, f"model.start={run.start}"])
    plain = load_parts(run.start, config.model.shape, conditioner=True, new_conditioner=True)
    before = predict(plain.unet)
    module = LoraDiffusion(plain, config)
    assert torch.equal(predict(module.unet), before)  # B is zero
    state = read(last)["state_dict"]
    module.restore(state, last)
    torch.testing.assert_close(
        predict(module.unet), predict(load_parts(last, use_ema=False).unet), atol=1e-5, rtol=0
    )
    averages = {
        name: state[f"model_ema.{name.replace('.', '')}"] for name in state if name.startswith("unet.")
    }
    module.restore({**state, **averages}, last)
    torch.testing.assert_close(predict(module.unet), predict(merged), atol=1e-5, rtol=0)
    assert (predict(merged) - before).abs().max() > 1e-4
    own = load_parts(last).conditioner.state_dict()
    assert torch.equal(own["projection_img.weight"], state["model_ema.projection_imgweight"])


def test_stock_diffusers_loads_what_training_leaves(
    run: Run, whole: Path, merged: UNet2DConditionModel
) -> None:
    """Witness: diffusers' own loader, over the base as a stock InstructPix2Pix pipeline; 1e-5."""
    stock = LegoPipeline.from_parts(load_parts(run.start, conditioner=False)).to_instruct_pix2pix()
    stock.load_lora_weights(whole / "lora", weight_name="pytorch_lora_weights.safetensors")
    torch.testing.assert_close(predict(stock.unet), predict(merged), atol=1e-5, rtol=0)
    assert (whole / "lora" / "conditioner" / "config.json").is_file()


def test_merging_writes_a_whole_checkpoint(last: Path, merged: UNet2DConditionModel, tmp_path: Path) -> None:
    """Bit by bit what the run's own file gives, as a file and as a folder."""
    for target in (tmp_path / "lego.safetensors", tmp_path / "lego"):
        convert(["merge", str(last), str(target)])
        parts = load_parts(target)
        assert torch.equal(predict(parts.unet), predict(merged))
        assert parts.conditioner is not None
    assert "model.diffusion_model.out.2.weight" in read(tmp_path / "lego.safetensors")["state_dict"]
    convert(["lora", str(last), str(tmp_path / "lora")])
    assert (tmp_path / "lora" / "pytorch_lora_weights.safetensors").is_file()
    with pytest.raises(UserError, match=r"lego.safetensors: is no checkpoint of a training with model.lora"):
        convert(["lora", str(tmp_path / "lego.safetensors"), str(tmp_path / "again")])
    with pytest.raises(UserError, match=r"x.ckpt: is to be a folder"):
        convert(["lora", str(last), str(tmp_path / "x.ckpt")])
    with pytest.raises(UserError, match=r"--lora: got .*, allowed: none but with merge"):
        convert(["lora", str(last), str(tmp_path / "y"), "--lora", "z"])


def test_every_command_takes_the_checkpoint(
    run: Run, last: Path, merged: UNet2DConditionModel, tmp_path: Path
) -> None:
    """`ldm.sample` draws from it what it draws from the merged file, byte by byte."""
    convert(["merge", str(last), str(tmp_path / "lego.ckpt")])
    (tmp_path / "generate.yaml").write_text("sampling: {steps: 2}\n")
    words, drawn = ["--config", str(tmp_path / "generate.yaml")], []
    for ckpt in (last, tmp_path / "lego.ckpt"):
        out = tmp_path / ckpt.stem
        sample([*words, "--ckpt", str(ckpt), "--out", str(out), *run.words()])
        drawn.append({f"{path.relative_to(out)}": path.read_bytes() for path in out.rglob("*.jpg")})
        assert json.loads((out / "manifest.json").read_text())["checkpoint"] == file_hash(ckpt)
    assert drawn[0] == drawn[1]
    assert len(drawn[0]) == 3
    Image.new("RGB", (40, 32), "red").save(tmp_path / "photo.png")
    words = [
        "--input",
        str(tmp_path / "photo.png"),
        "--prompt",
        "open the box",
        "--steps",
        "2",
        "--device",
        "cpu",
    ]
    edit([*words, "--ckpt", str(last), "--output", str(tmp_path / "frame.png")])
    assert (tmp_path / "frame.png").is_file()
    page = load_engine(PageOptions(ckpt=last, device="cpu"), Chosen(last, None))
    assert page.methods["LEGO"].side == 32
    assert torch.equal(predict(page.methods["LEGO"].parts.unet), predict(merged))
    _, teacher = load_teacher(load_config(DistillConfig, [], [f"model.start={last}"]))
    assert torch.equal(predict(teacher.unet), predict(merged))
    assert torch.equal(predict(LegoPipeline.from_single_file(last).unet), predict(merged))


def test_adapters_are_of_one_base(run: Run, last: Path, tmp_path: Path) -> None:
    """Where it was, or beside the file; another one, or none, is an error of one line."""
    content = read(last)
    moved = tmp_path / "moved.ckpt"
    torch.save({**content, LORA: {**content[LORA], "base": "/not/there/start.ckpt"}}, moved)
    with pytest.raises(UserError, match=r"moved.ckpt: holds adapters of /not/there/start.ckpt, which is not"):
        load_parts(moved)
    shutil.copyfile(run.start, tmp_path / "start.ckpt")
    load_parts(moved)
    other = torch.load(run.start, weights_only=True)
    other["state_dict"]["model.diffusion_model.out.2.weight"] += 1
    torch.save(other, tmp_path / "start.ckpt")
    with pytest.raises(
        UserError, match=r"start.ckpt: is not the checkpoint that the adapters of .*moved.ckpt"
    ):
        load_parts(moved)
    with pytest.raises(UserError, match=r"model.start: .*start.ckpt is not what the run .* begun with"):
        fit(run, "whole", f"model.start={tmp_path / 'start.ckpt'}", "trainer.max_steps=4")
    cut = {name: value for name, value in content["state_dict"].items() if "conv_in" not in name}
    torch.save({**content, "state_dict": cut}, tmp_path / "cut.ckpt")
    with pytest.raises(UserError, match=r"cut.ckpt: holds 16 tensors of adapters, expected 18"):
        load_parts(tmp_path / "cut.ckpt")
    torch.save({**content, LORA: {**content[LORA], "base": None}}, tmp_path / "odd.ckpt")
    with pytest.raises(UserError, match=r"odd.ckpt: lora: base: got None, allowed: a text"):
        load_parts(tmp_path / "odd.ckpt")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["model.lora.rank=0"], r"model.lora.rank: got 0, allowed: 1 to 4,096"),
        (["model.lora.targets=[to_q, query]"], r"model.lora.targets.1: got 'query', allowed: .*to_q, to_k"),
        (["model.lora.targets=[]"], r"model.lora.targets: got \[\], allowed: .*at least one of to_q"),
        (["sampling.loras=[{path: x}]"], r"sampling.loras: got \['x'\], allowed: \[\] in training"),
    ],
)
def test_settings_that_make_no_sense(words: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        load_config(TrainConfig, [], words)


@pytest.mark.usefixtures("whole")
def test_runs_that_make_no_sense(run: Run) -> None:
    with pytest.raises(UserError, match=r"model.lora: got .*, allowed: none in a distillation"):
        load_config(DistillConfig, [], ["model.lora.rank=4"])
    with pytest.raises(UserError, match=r"model.lora.targets: got to_q, expected conv_in among them"):
        fit(run, "blind", "model.lora.targets=[to_q]")
    for name, words in (("whole", ["model.lora.rank=8"]), ("whole", ["model.lora=null"])):
        with pytest.raises(UserError, match=r"model.lora: got .*, the run to resume has .*, which cannot"):
            fit(run, name, *words)


def test_a_training_begins_from_such_a_checkpoint(last: Path, merged: UNet2DConditionModel) -> None:
    """Its adapters are in the weights, by their last values: a training's are not the averaged ones."""
    _, parts = load(load_config(TrainConfig, [], [*OVERRIDES, f"model.start={last}"]))
    assert torch.equal(predict(parts.unet), predict(load_parts(last, use_ema=False).unet))
    assert not torch.equal(predict(parts.unet), predict(merged))
