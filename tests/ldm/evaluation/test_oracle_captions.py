"""BLIP and EgoVLP's text tower against numbers recorded from the published code in evaluation mode."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from egogen.annotations import Action, Item
from ldm.metrics.blip import begin as blip_similarity
from ldm.metrics.feature_cache import Memory
from ldm.metrics.metric import MetricSetting
from ldm.metrics.networks.beams import search
from ldm.metrics.networks.blip_captioner import Captioner, config, load_captioner, rename
from ldm.metrics.networks.egovlp_model import EgoVLP, load_egovlp, load_tokenizer
from ldm.metrics.networks.metric_weights import BLIP, EGOVLP
from ldm.metrics.networks.metric_weights import VOCABULARY as VOCABULARY_FILE
from tests.ldm.evaluation.made_pairs import made_pairs
from tests.ldm.evaluation.networks import (
    ORACLE,
    VOCABULARY,
    blip,
    egovlp,
    shapes,
    small_vocabulary,
    write_vocabulary,
)

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def captioner(tmp_path_factory: pytest.TempPathFactory) -> Captioner:
    root = tmp_path_factory.mktemp("blip")
    torch.save({"model": blip()}, root / "blip.pth")
    return load_captioner(
        root / "blip.pth", load_tokenizer(write_vocabulary(root / "vocab.txt"), VOCABULARY), CPU
    )


@pytest.fixture(scope="module")
def recording() -> Any:
    return np.load(ORACLE / "blip_tiny.npz")


@pytest.fixture(scope="module")
def words() -> Any:
    return json.loads((ORACLE / "blip_tiny.json").read_text())


@pytest.fixture(scope="module")
def pixels(captioner: Captioner, words: Any) -> torch.Tensor:
    files = [ORACLE / "gen" / name for name in words["files"]]
    return torch.stack([captioner.pixels(np.array(Image.open(path).convert("RGB"))) for path in files])


def test_pixels_states_and_logits(captioner: Captioner, pixels: torch.Tensor, recording: Any) -> None:
    np.testing.assert_allclose(pixels[:, :, ::8, ::8], recording["pixels_sub"], atol=1e-6)
    with torch.no_grad():
        states = captioner.model.vision_model(pixel_values=pixels)[0]
        logits = captioner.model.text_decoder(
            input_ids=torch.from_numpy(recording["input_ids"]), encoder_hidden_states=states
        ).logits
    np.testing.assert_allclose(states[:, :3], recording["image_embeds_sub"], atol=5e-5)
    np.testing.assert_allclose(logits[..., ::509], recording["logits_sub"], atol=5e-5)


def unpadded(ids: np.ndarray, end: int = 102) -> list[int]:
    row = ids.tolist()
    return row[: row.index(end)] if end in row else row


@pytest.mark.parametrize("size", [12, 5, 1])
def test_published_captions(
    captioner: Captioner, pixels: torch.Tensor, recording: Any, words: Any, size: int
) -> None:
    """Beams scored by their length with the prompt: all captions, in batches of any size."""
    ids = torch.cat([captioner.ids(part, "published") for part in pixels.split(size)])
    for found, expected, text in zip(ids, recording["eval_ids"], words["eval_captions"], strict=True):
        wanted = unpadded(expected)
        assert found[: len(wanted)].tolist() == wanted
        assert not found[len(wanted) :].any()
        assert captioner.text(found) == text


def test_corrected_captions_are_those_of_the_library(captioner: Captioner, pixels: torch.Tensor) -> None:
    """Beams scored by what they add to the prompt; some captions differ from the published ones."""
    ours = captioner.ids(pixels, "corrected")
    theirs = captioner.model.generate(
        pixel_values=pixels, input_ids=torch.tensor([[*captioner.prompt, 102]] * len(pixels)),
        num_beams=3, min_length=5, max_length=20, do_sample=False,
    )  # fmt: skip
    assert [unpadded(row) for row in theirs.numpy()] == [
        [token for token in row if token] for row in ours.tolist()
    ]
    assert not torch.equal(ours, captioner.ids(pixels, "published"))


def test_beam_search_by_hand() -> None:
    """Two words and an end (2). The end is likelier at once, but a longer beam scores better by its mean."""
    table = torch.log(torch.tensor([[0.5, 0.1, 0.4], [0.05, 0.9, 0.05], [1 / 3, 1 / 3, 1 / 3]]))

    def step(ids: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        return table[ids[:, -1]]

    (found,) = search(step, torch.tensor([[0]]), beams=2, shortest=1, longest=4, end=2)
    # All ended beams: [0] with ln .4 / 1; [0 0] with (ln .5 + ln .4) / 2 ...; running at length 4:
    # [0 0 0 0] with 3 ln .5 / 4 = -.52, [0 1 1 1] with (ln .1 + 2 ln .9) / 4 = -.63.
    assert found == [0, 0, 0, 0]
    (longer,) = search(step, torch.tensor([[1]]), beams=2, shortest=1, longest=6, end=2)
    assert longer == [1, 1, 1, 1, 1, 1]
    (short,) = search(step, torch.tensor([[0]]), beams=1, shortest=3, longest=3, end=2)
    assert len(short) == 3


@pytest.fixture(scope="module")
def text_tower(tmp_path_factory: pytest.TempPathFactory) -> EgoVLP:
    path = tmp_path_factory.mktemp("text") / "egovlp.pth"
    torch.save({"state_dict": egovlp()}, path)
    return load_egovlp(path, 4, CPU)


@pytest.mark.parametrize("kind", ["label", "caption"])
@pytest.mark.parametrize("key", ["llava_forecast_finetune", "action"])
def test_text_features(text_tower: EgoVLP, kind: str, key: str) -> None:
    """The recorded tower knew 2,048 words and 64 positions: 2e-5, alone and padded in a batch."""
    name = f"ego4d_{key}"
    ids = json.loads((ORACLE / "text_tiny.json").read_text())[name][f"{kind}_ids"]
    expected = np.load(ORACLE / "text_tiny.npz")[f"{name}_{kind}_emb"]
    longest = max(map(len, ids))
    padded = torch.tensor([row + [0] * (longest - len(row)) for row in ids])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in ids])
    np.testing.assert_allclose(text_tower.text_ids(padded, mask), expected, atol=2e-5)
    alone = torch.tensor(ids[0])[None]
    np.testing.assert_allclose(text_tower.text_ids(alone, torch.ones_like(alone))[0], expected[0], atol=2e-5)


def test_texts_that_egovlp_cuts_are_counted(
    text_tower: EgoVLP, captioner: Captioner, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its places hold so many tokens, two of which mark start and end."""
    places = text_tower.text_model.config.max_position_embeddings
    vocabulary = write_vocabulary(tmp_path / "vocab.txt", 2048, small_vocabulary())
    weights = {EGOVLP["ego4d"].name: tmp_path / "tower", BLIP["base"].name: tmp_path / "blip"}
    opened = dict(zip(map(str, weights.values()), (text_tower, captioner), strict=True))
    setting = MetricSetting("ego4d", weights={**weights, VOCABULARY_FILE.name: vocabulary}, opened=opened)

    def begin(*texts: str) -> None:
        items = [Item("a", str(number), action(text)) for number, text in enumerate(texts)]
        blip_similarity("base", setting, made_pairs(*items), Memory())

    begin("cut " * (places - 2), "x")
    assert not caplog.records
    begin("cut " * (places - 2), "cut " * (places - 1), "cut " * 200)
    assert f"2 of 3 texts are longer than EgoVLP's {places} tokens and are cut" in caplog.text


def action(text: str) -> Action:
    return Action({"image_0": "a.jpg", "image_1": "b.jpg", "action": "cuts", "llava_forecast_finetune": text})


def test_words_have_their_recorded_ids(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(write_vocabulary(tmp_path / "vocab.txt"), VOCABULARY)
    recorded = json.loads((ORACLE / "text_full.json").read_text())
    annotations = json.loads((ORACLE / "EgoGen" / "ego4d_val.json").read_text())
    captions = json.loads((ORACLE / "captions_ego4d.json").read_text())
    actions = [(clip, action) for clip, entries in annotations.items() for action in entries]
    for key in ("llava_forecast_finetune", "action"):
        texts = [annotations[clip][action][key] for clip, action in actions]
        assert tokenizer(texts)["input_ids"] == recorded[f"ego4d_{key}"]["label_ids"]
        written = [captions[clip][action] for clip, action in actions]
        assert tokenizer(written)["input_ids"] == recorded[f"ego4d_{key}"]["caption_ids"]


@pytest.mark.parametrize("size", ["base", "large"])
def test_the_published_files_fit(size: str) -> None:
    """Names and shapes of the true files are those of the library's network of the sizes read off them."""
    from transformers import BlipForConditionalGeneration

    with torch.device("meta"):
        given = {name: torch.empty(shape) for name, shape in shapes(f"blip_{size}", "full").items()}
        network = BlipForConditionalGeneration(config(given))
    expected = {name: value.shape for name, value in network.state_dict().items()}
    named = {rename(name): value.shape for name, value in given.items() if not name.endswith("position_ids")}
    assert named == expected
    vision = network.config.vision_config
    assert (vision.image_size, vision.num_attention_heads) == (384, 12 if size == "base" else 16)
