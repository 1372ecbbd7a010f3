"""Drawings with LoRA files: what they record; the scheduler that LCM-LoRA wants."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import peft
import pytest
from diffusers import LCMScheduler, PNDMScheduler
from PIL import Image

from egogen.errors import UserError
from egogen.manifest import file_hash
from ldm.checkpoints.writing import write
from ldm.config.merge import load_config
from ldm.config.sections import GenerateConfig
from ldm.diffusion.sampler import make_scheduler
from ldm.diffusion.schedule import TRAINING_SCHEDULE
from ldm.edit import main as edit
from ldm.sample import main as sample
from tests.ldm.test_convert import state_of
from tests.ldm.test_lora_files import Tensors, by_kohya
from tests.ldm.test_lora_files import adapted as adapted
from tests.ldm.test_lora_files import plain as plain
from tests.ldm.test_lora_files import settings as settings
from tests.ldm.test_lora_files import tensors as tensors
from tests.ldm.toy_run import ATTENTIVE, Run, make_run


def test_lcm_is_what_its_authors_draw_by() -> None:
    """Witness: diffusers' recipe, `LCMScheduler.from_config` of Stable Diffusion's own; its timesteps."""
    own = PNDMScheduler(**TRAINING_SCHEDULE, skip_prk_steps=True, set_alpha_to_one=False, steps_offset=1)
    recipe, made = LCMScheduler.from_config(own.config, clip_sample=False), make_scheduler("lcm")
    ours = {name: value for name, value in made.config.items() if not name.startswith("_")}
    assert ours == {name: recipe.config[name] for name in ours}
    made.set_timesteps(4)
    assert made.timesteps.tolist() == [999, 759, 499, 259]
    with pytest.raises(UserError, match=r"sampling.steps: got 51, allowed: 1 to 50 with scheduler lcm"):
        load_config(GenerateConfig, [], ["sampling.scheduler=lcm", "sampling.steps=51"])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("run"), ATTENTIVE)


def test_drawings_take_files_and_record_them(
    run: Run, tensors: Tensors, settings: peft.LoraConfig, tmp_path: Path
) -> None:
    """Frames differ with the weight; a folder knows the file by its hash and refuses others."""
    write(tmp_path / "lego.ckpt", state_of(ATTENTIVE), ATTENTIVE)
    lora = by_kohya(tensors, settings, tmp_path)
    (tmp_path / "generate.yaml").write_text(
        "sampling: {scheduler: lcm, steps: 2, scales_txt: [1], scales_img: [1]}\n"
    )

    def drawn(out: str, *words: str) -> dict[str, bytes]:
        sample([
            "--config", str(tmp_path / "generate.yaml"), "--ckpt", str(tmp_path / "lego.ckpt"),
            "--out", str(tmp_path / out), *run.words(), *words,
        ])  # fmt: skip
        return {
            f"{path.relative_to(tmp_path / out)}": path.read_bytes()
            for path in (tmp_path / out).rglob("*.jpg")
        }

    without = drawn("without")
    full, half = (f"sampling.loras=[{{path: {lora}, weight: {weight}}}]" for weight in (1, 0.5))
    made = drawn("full", full)
    assert without.keys() == made.keys()
    assert without != made
    manifest = json.loads((tmp_path / "full" / "manifest.json").read_text())
    assert manifest["sampling"]["loras"] == [{"sha256": file_hash(lora), "weight": 1.0}]
    assert "loras" not in json.loads((tmp_path / "without" / "manifest.json").read_text())["sampling"]
    moved = lora.rename(tmp_path / "elsewhere.safetensors")
    assert drawn("full", full.replace(str(lora), str(moved))) == made
    for words in ([half.replace(str(lora), str(moved))], []):
        with pytest.raises(UserError, match=r"manifest.json: the folder was made with sampling.loras = "):
            drawn("full", *words)
    with pytest.raises(UserError, match=r"--method sdedit does not use it"):
        drawn("other", full, "--method", "sdedit")


def test_edit_takes_files(tensors: Tensors, settings: peft.LoraConfig, tmp_path: Path) -> None:
    write(tmp_path / "lego.ckpt", state_of(ATTENTIVE), ATTENTIVE)
    lora = str(by_kohya(tensors, settings, tmp_path))
    Image.new("RGB", (40, 32), "red").save(tmp_path / "photo.png")
    words = [
        "--input", str(tmp_path / "photo.png"), "--prompt", "open", "--ckpt", str(tmp_path / "lego.ckpt"),
        "--steps", "2", "--device", "cpu", "--resolution", "32",
    ]  # fmt: skip

    def drawn(*more: str) -> np.ndarray:
        edit([*words, "--output", str(tmp_path / "frame.png"), *more])
        return np.asarray(Image.open(tmp_path / "frame.png"), int)

    plain = drawn()
    assert np.array_equal(plain, drawn("--lora", lora, "--lora-weight", "0"))
    assert not np.array_equal(
        plain, drawn("--lora", lora, "--scheduler", "lcm", "--cfg-text", "1", "--cfg-image", "1")
    )
    with pytest.raises(
        UserError, match=r"--lora-weight: got \[1.0, 2.0\], allowed: a number for each --lora"
    ):
        drawn("--lora", lora, "--lora-weight", "1", "2")
    with pytest.raises(UserError, match=r"--lora nowhere: no such file"):
        drawn("--lora", "nowhere")
    folder = ["--output", str(tmp_path / "many"), "--lora", lora]
    many = [*words, str(tmp_path / "photo.png")]
    many[1:2] = [str(tmp_path / "photo.png"), str(tmp_path / "second.png")]
    Image.new("RGB", (40, 32), "blue").save(tmp_path / "second.png")
    edit([*many[:-1], *folder])
    manifest = json.loads((tmp_path / "many" / "manifest.json").read_text())
    assert manifest["sampling"]["loras"] == [{"sha256": file_hash(Path(lora)), "weight": 1.0}]
    with pytest.raises(UserError, match="the folder was made with sampling"):
        edit([*many[:-1], *folder[:2]])
