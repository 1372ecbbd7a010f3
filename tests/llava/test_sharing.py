"""A saved VLLM's card, its example, and sending it.

Witness: the hub's own client, for the card's head and for what arrives.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from huggingface_hub import ModelCard, constants
from PIL import Image

from egogen.sharing.model_card import ModelWords
from egogen.sharing.parcel import pack
from llava.checkpoints.vllm_card import card_words
from llava.describing import describing_loop
from llava.describing.decode import Sampling
from llava.model import push_to_hub, save
from tests.egogen.fake_hub import Hub, serving
from tests.llava.conftest import Loaded

REPO, TOKEN = "somebody/vllm", "hf_" + "Sa7" * 10


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        server.token = TOKEN
        yield server


def test_the_card_and_its_example(
    loaded: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save(*loaded, tmp_path, ModelWords(data="Toys & <frames>", base_model=["owner/base"]))
    pack(tmp_path)  # as it is, it can be sent
    card = ModelCard.load(tmp_path / "README.md")
    assert (card.data.pipeline_tag, card.data.base_model) == ("image-text-to-text", ["owner/base"])
    assert r"Toys \& \<frames\>" in card.text
    (code,) = re.findall(r"```python\n(.*?)```", card.text, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (71, 40), "teal").save("photo.jpg")
    monkeypatch.setattr(describing_loop, "Sampling", partial(Sampling, max_new_tokens=4))  # not 1024
    exec(code, {})
    width = loaded[0].config.text_config.hidden_size
    assert f"torch.Size([{loaded[0].patches}, {width}]) torch.Size([" in capsys.readouterr().out


def test_the_published_size_derives_from_llama_2(loaded: Loaded) -> None:
    config = type(loaded[0].config).from_dict(loaded[0].config.to_dict())
    assert card_words(config).licence.id == "other"
    config.text_config.hidden_size = 5120
    words = card_words(config, adapters=True)
    assert words.licence.id == "llama2"
    assert "LLAMA 2 Community License" in words.licences
    assert "These are adapters" in words.what


def test_pushing(hub: Hub, loaded: Loaded) -> None:
    url = push_to_hub(loaded, REPO, private=True, token=TOKEN)
    assert url.startswith(f"{hub.url}/{REPO}/commit/")
    sent = hub.repos["model", REPO]
    assert {"README.md", "config.json", "model.safetensors", "tokenizer_config.json"} <= sent.keys()
    assert f"HERE = snapshot_download({REPO!r})".encode() in sent["README.md"]
    assert hub.private == {("model", REPO): True}
