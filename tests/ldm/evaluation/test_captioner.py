"""BLIP with few words: its sizes, what it is asked for, how captions become texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from egogen.clip_pixels import CLIP_MEAN, CLIP_STD
from egogen.errors import UserError
from ldm.metrics.metric_names import Protocol
from ldm.metrics.networks import blip_captioner
from ldm.metrics.networks.blip_captioner import Captioner, config, load_captioner, rename
from ldm.metrics.networks.egovlp_model import load_tokenizer
from tests.ldm.evaluation.networks import blip, write_vocabulary

CPU = torch.device("cpu")
END, COUNT = 102, 118
WORDS = {
    "[PAD]": 0, "[UNK]": 1, "[CLS]": 101, "[SEP]": END, "[MASK]": 103, "a": 104, "picture": 105, "of": 106,
    "red": 107, ",": 108, "cup": 109,
}  # fmt: skip
PROMPT = [COUNT, 104, 105, 106]
AGAIN = "fetch it again by bash scripts/download_metric_weights.sh"


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    """A published file's weights, of a vocabulary of 118 words and [DEC] and [ENC]."""
    return blip(COUNT + 2)


@pytest.fixture(scope="module")
def captioner(state: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Captioner:
    root = tmp_path_factory.mktemp("few_words")
    torch.save({"model": state}, root / "blip.pth")
    tokenizer = load_tokenizer(write_vocabulary(root / "vocab.txt", COUNT, WORDS), COUNT)
    return load_captioner(root / "blip.pth", tokenizer, CPU)


def test_sizes_are_read_off_the_file(state: dict[str, Tensor], captioner: Captioner) -> None:
    vision, text = config(state).vision_config, config(state).text_config
    assert (vision.hidden_size, vision.intermediate_size, vision.num_hidden_layers) == (48, 192, 2)
    assert (vision.num_attention_heads, vision.patch_size, vision.image_size) == (4, 16, 64)
    assert vision.layer_norm_eps == 1e-6
    assert (text.hidden_size, text.intermediate_size, text.num_hidden_layers) == (32, 64, 2)
    assert (text.num_attention_heads, text.vocab_size, text.max_position_embeddings) == (4, 120, 64)
    assert text.encoder_hidden_size == 48
    assert (captioner.side, captioner.end, captioner.prompt) == (64, END, PROMPT)
    assert not captioner.model.training


def test_tensors_are_named_as_in_the_library(state: dict[str, Tensor], captioner: Captioner) -> None:
    own = captioner.model.state_dict()
    for name, value in state.items():
        if not name.endswith("position_ids"):
            assert torch.equal(own[rename(name)], value), name
    assert rename("text_decoder.visual_encoder.norm.") == "text_decoder.visual_encoder.norm."


def test_files_of_other_networks_are_told(
    state: dict[str, Tensor], captioner: Captioner, tmp_path: Path
) -> None:
    path = tmp_path / "x.pth"

    def told(change: dict[str, Tensor | None]) -> str:
        changed = {**state, **change}
        torch.save({name: value for name, value in changed.items() if value is not None}, path)
        with pytest.raises(UserError) as error:
            load_captioner(path, captioner.tokenizer, CPU)
        return str(error.value)

    text = "text_decoder.bert."
    for name in (
        "visual_encoder.pos_embed", "visual_encoder.patch_embed.proj.weight",
        "visual_encoder.blocks.0.mlp.fc1.weight", f"{text}embeddings.word_embeddings.weight",
        f"{text}embeddings.position_embeddings.weight", f"{text}encoder.layer.0.intermediate.dense.weight",
    ):  # fmt: skip
        assert told({name: None}) == f"{path}: not the weights of BLIP: there is no '{name}'; {AGAIN}"
    count = len(state) - 1  # `position_ids` is none of the library's
    assert told({"visual_encoder.norm.bias": None, "position_ids": torch.ones(1)}) == (
        f"{path}: not the weights of BLIP: of {count} tensors 1 missing (such as "
        f"'vision_model.post_layernorm.bias'), 1 unknown (such as 'position_ids'); {AGAIN}"
    )


def test_frames_are_squashed_on_8_bits(captioner: Captioner) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (90, 160, 3), dtype=np.uint8)
    squashed = np.asarray(Image.fromarray(frame).resize((64, 64), Image.Resampling.BICUBIC))
    expected = (squashed / 255 - CLIP_MEAN) / CLIP_STD
    found = captioner.pixels(frame)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.permute(1, 2, 0), expected, atol=1e-6)


@pytest.mark.parametrize("protocol", ["published", "corrected"])
def test_ids_have_zeros_behind(
    captioner: Captioner, protocol: Protocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The protocol says who searches; both are given the states of the frames and the prompt of each."""
    pixels = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = captioner.model.vision_model(pixel_values=pixels).last_hidden_state

    def found(states: Tensor, prompt: Tensor) -> list[list[int]]:
        assert torch.equal(states, expected)
        assert not states.requires_grad
        assert prompt.tolist() == [PROMPT] * 2
        return [[*PROMPT, 109], list(range(1, 21))]

    own, other = ("published", "library") if protocol == "published" else ("library", "published")
    monkeypatch.setattr(captioner, own, found)
    monkeypatch.setattr(captioner, other, None)
    ids = captioner.ids(pixels, protocol)
    assert ids.dtype == torch.long
    assert ids.tolist() == [[*PROMPT, 109, *[0] * 15], list(range(1, 21))]


@torch.no_grad()
def test_the_published_search_sees_what_was_not_kept_too(
    captioner: Captioner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three beams an item; keys and values of a beam go where its words go."""
    states = torch.randn(2, 5, 48, generator=torch.Generator().manual_seed(0))
    asked: list[dict[str, Any]] = []

    def search(step: Any, prompt: Tensor, **how: Any) -> list[list[int]]:
        asked.append(how)
        ids, origin = prompt.repeat_interleave(3, 0), torch.arange(6)
        for place, words in enumerate(([107, 108, 109, 110, 111, 112], [105, 106, 107, 108, 109, 110])):
            expected = captioner.model.text_decoder(
                input_ids=ids, encoder_hidden_states=states.repeat_interleave(3, 0)
            ).logits[:, -1]
            torch.testing.assert_close(step(ids, origin), expected, atol=1e-4, rtol=1e-4)
            origin = torch.tensor([[2, 0, 0, 5, 4, 3], [1, 1, 2, 3, 5, 5]][place])
            ids = torch.cat([ids[origin], torch.tensor(words)[:, None]], 1)
        expected = captioner.model.text_decoder(
            input_ids=ids, encoder_hidden_states=states.repeat_interleave(3, 0)
        ).logits[:, -1]
        torch.testing.assert_close(step(ids, origin), expected, atol=1e-4, rtol=1e-4)
        return [[7]]

    monkeypatch.setattr(blip_captioner, "search", search)
    assert captioner.published(states, torch.tensor([PROMPT] * 2)) == [[7]]
    assert asked == [{"beams": 3, "shortest": 5, "longest": 20, "end": END}]


@torch.no_grad()
def test_the_library_searches_without_the_end(captioner: Captioner, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def generate(**how: Any) -> Tensor:
        asked.append(how)
        return torch.tensor([[*PROMPT, 109, END, END], [*PROMPT, 109, 107, 108]])

    monkeypatch.setattr(captioner.model.text_decoder, "generate", generate)
    states, prompt = torch.randn(2, 5, 48), torch.tensor([PROMPT] * 2)
    assert captioner.library(states, prompt) == [[*PROMPT, 109], [*PROMPT, 109, 107, 108]]
    (how,) = asked
    assert torch.equal(how.pop("input_ids"), prompt)
    assert torch.equal(how.pop("encoder_hidden_states"), states)
    assert how.pop("attention_mask").tolist() == [[1] * 4] * 2
    assert how == {
        "num_beams": 3, "min_length": 5, "max_length": 20, "do_sample": False, "eos_token_id": END,
        "pad_token_id": END,
    }  # fmt: skip


def test_a_caption_is_what_follows_its_prompt(captioner: Captioner) -> None:
    """Its first blank stays; no blank before a comma; zeros are nothing."""
    assert captioner.text(torch.tensor([*PROMPT, 104, 107, 108, 107, 109, 0, 0])) == " a red, red cup"
    assert captioner.text(torch.tensor([*PROMPT, 0])) == ""
