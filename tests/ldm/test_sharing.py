"""A saved pipeline's card, its example, sending it, and diffusers' own loader with and without this package.

Witnesses: the hub's own client for the card and what arrives, stock diffusers as a loader.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionInstructPix2PixPipeline
from huggingface_hub import ModelCard, constants
from PIL import Image

from egogen.assets import place
from egogen.sharing.model_card import ModelWords
from egogen.sharing.parcel import pack
from ldm.checkpoints.pipeline_card import card_words
from ldm.checkpoints.stated_sizes import state_resolution
from ldm.networks.architecture import build
from ldm.networks.shapes import Architecture
from ldm.pipeline import LegoPipeline
from tests.egogen.fake_hub import Hub, serving
from tests.ldm.toy_run import SHAPE

REPO, TOKEN = "somebody/lego", "hf_" + "Sa7" * 10


@pytest.fixture(scope="module")
def pipeline() -> LegoPipeline:
    torch.manual_seed(1)
    parts = build(SHAPE)
    state_resolution(parts, 32)
    return LegoPipeline.from_parts(parts)


@pytest.fixture(scope="module")
def saved(pipeline: LegoPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "lego"
    pipeline.save_pretrained(folder, words=ModelWords(about="Mine | <b>", metrics={"PSNR": 12.5}))
    return folder


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        server.token = TOKEN
        yield server


def example(folder: Path) -> str:
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    return str(code)


def run_example(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Image.Image:
    """Runs a card's example in its folder, on a photo; returns what it wrote."""
    monkeypatch.chdir(folder)
    Image.new("RGB", (71, 40), "teal").save("photo.jpg")
    code = example(folder).replace("'num_inference_steps': 100", "'num_inference_steps': 2")
    try:
        exec(code, {})
        with Image.open("action.png") as drawn:
            drawn.load()
            return drawn
    finally:
        Path("photo.jpg").unlink()
        Path("action.png").unlink(missing_ok=True)


def test_the_card_of_a_saved_pipeline(saved: Path) -> None:
    card = ModelCard.load(saved / "README.md")
    head = card.data.to_dict()
    assert (head["pipeline_tag"], head["library_name"], head["license"]) == (
        "image-to-image", "lego-egogen", "other",
    )  # fmt: skip
    assert head["metrics"] == ["PSNR"]
    assert r"Mine \| \<b\>" in card.text
    for section in ("Use", "Training data", "Results", "Limits", "Licences"):
        assert f"\n## {section}\n" in card.text
    assert "| PSNR | 12.5 |" in card.text
    pack(saved)  # as it is, it can be sent


def test_networks_of_published_size_derive_from_stable_diffusion() -> None:
    with torch.device("meta"):
        words = card_words(build(Architecture()))
    assert words.licence.id == "creativeml-openrail-m"
    assert words.base_model[0] == "stable-diffusion-v1-5/stable-diffusion-v1-5"


def test_the_cards_example_runs(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_example(saved, monkeypatch).size == (71, 40)


def test_the_example_of_a_distilled_checkpoint_draws_it_by_its_own_steps(tmp_path: Path) -> None:
    LegoPipeline.from_single_file(place("lego-4.safetensors")).save_pretrained(tmp_path / "lego")
    settings = "{'num_inference_steps': 4, 'guidance_scale': 1.5, 'image_guidance_scale': 1.0}"
    assert settings in example(tmp_path / "lego")
    assert "photo.resize((64, 64))" in example(tmp_path / "lego")


def test_a_stock_pipelines_example_needs_no_package_of_ours(
    pipeline: LegoPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline.save_instruct_pix2pix(tmp_path)
    assert "ldm" not in example(tmp_path)
    assert run_example(tmp_path, monkeypatch).size == (71, 40)
    found = DiffusionPipeline.from_pretrained(tmp_path, safety_checker=None)
    assert isinstance(found, StableDiffusionInstructPix2PixPipeline)


def test_diffusers_own_loader_finds_the_pipeline(saved: Path) -> None:
    """The file in the folder holds no method: it is the package's own pipeline that draws."""
    found = DiffusionPipeline.from_pretrained(saved, custom_pipeline=str(saved), trust_remote_code=True)
    assert isinstance(found, LegoPipeline)
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        DiffusionPipeline.from_pretrained(saved, custom_pipeline=str(saved))


def test_without_the_package_one_line_says_what_is_needed(
    saved: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "ldm.pipeline", None)
    with pytest.raises(ImportError) as told:
        exec((saved / "pipeline.py").read_text(), {})
    assert "\n" not in str(told.value)
    assert "needs this project's package lego-egogen[ldm]" in str(told.value)
    with pytest.raises(ImportError):
        DiffusionPipeline.from_pretrained(saved, custom_pipeline=str(saved), trust_remote_code=True)
    assert "pip install ldm" not in caplog.text


def test_pushing(hub: Hub, pipeline: LegoPipeline, saved: Path, tmp_path: Path) -> None:
    words = ModelWords(title="Mine", metrics={"PSNR": 12.5})
    url = pipeline.push_to_hub(REPO, private=True, token=TOKEN, words=words)
    assert url.startswith(f"{hub.url}/{REPO}/commit/")
    assert hub.private == {("model", REPO): True}
    sent = hub.repos["model", REPO]
    paths = [path for path in saved.rglob("*") if path.is_file()]
    files = {path.relative_to(saved).as_posix(): path.read_bytes() for path in paths}
    assert sent.keys() == files.keys()
    weights = [name for name in files if name.endswith(".safetensors")]
    assert len(weights) == 4
    assert all(sent[name] == files[name] for name in weights)
    assert f"HERE = snapshot_download({REPO!r})".encode() in sent["README.md"]
    pipeline.save_pretrained(tmp_path / "lego", push_to_hub=True, repo_id="somebody/other", token=TOKEN)
    assert hub.repos["model", "somebody/other"].keys() == files.keys()
