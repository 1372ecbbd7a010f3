"""`--dtype auto`: torch says what the device has; what bfloat16 changes, against the recorded numbers."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
import torch

from egogen.errors import UserError
from egogen.files import write_json
from llava.describe import main
from llava.describing.decode import Sampling, answer, follow
from llava.model import fast_dtype, load
from llava.question.prompts import prompt_ids
from tests.llava.conftest import Loaded
from tests.llava.test_decode import RUNS, calls_of, project
from tests.llava.test_given_texts import flags, nested

# Of bfloat16, whose steps are 1/256, on the recorded model of random weights: measured 0.009 and 0.016.
IMAGE_ERROR, TEXT_ERROR = 0.012, 0.025
NEAR_TIE = 0.15  # of two logits, whose errors are at most 0.085 and whose spread is 1


@pytest.mark.parametrize(("has", "expected"), [(True, "bfloat16"), (False, "float32")])
def test_torch_is_asked_what_the_device_has(
    has: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: has)
    assert fast_dtype(torch.device("cpu")) == expected
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: not has)
    monkeypatch.setattr(torch.cuda, "device", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: has)
    assert fast_dtype(torch.device("cuda", 1)) == expected


@pytest.fixture(scope="module")
def halved(tiny: Path) -> Loaded:
    return load(tiny, dtype=torch.bfloat16)


@pytest.mark.parametrize("name", ["chunk1", "chunk2", "description", "epic"])
@torch.no_grad()
def test_what_16_bits_change(name: str, loaded: Loaded, halved: Loaded) -> None:
    """Features of the recorded answers, and the likeliest tokens: they part at a near tie or not at all."""
    run = RUNS[name]
    images, actions, calls = zip(*calls_of(run), strict=True)
    prompts = [prompt_ids(run["args"]["query"], action, loaded[1]) for action in actions]
    seen, texts, greedy = [], [], []
    for model in (loaded, halved):
        features = project(model, images)
        seen.append(features.float())
        ids = [call["generated_ids"] for call in calls]
        texts.append([states.float() for states in follow(model[0], prompts, features, ids)])
        sampling = Sampling(0.0, 50, run["max_new_tokens"])
        greedy.append(answer(model[0], loaded[1], prompts, features, [0] * len(prompts), sampling))
    assert ((seen[1] - seen[0]).norm() / seen[0].norm()).item() < IMAGE_ERROR
    for one, other in zip(*texts, strict=True):
        assert ((other - one).norm() / one.norm()).item() < TEXT_ERROR
    for one, other in zip(*greedy, strict=True):
        parted = [place for place, (a, b) in enumerate(zip(one.tokens, other.tokens, strict=False)) if a != b]
        if parted:
            logits = loaded[0].lm_head(one.states[parted[0]])
            assert logits[one.tokens[parted[0]]] - logits[other.tokens[parted[0]]] < NEAR_TIE
        else:
            assert one.tokens == other.tokens


def test_a_cpu_generates_in_32_bits(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    main(flags(tiny, tmp_path, "--max-new-tokens", "2", "--shard", "1/5", "--dtype", "auto"))
    assert json.loads((tmp_path / "texts/manifest.json").read_text())["dtype"] == "float32"


def test_the_manifest_has_the_type_that_was_used(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_json(tmp_path / "given.json", nested(lambda _clip, _action, text: text))
    few = ("--max-new-tokens", "2", "--shard", "1/5", "--texts", str(tmp_path / "given.json"))
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    main(flags(tiny, tmp_path, *few, "--dtype", "auto"))
    assert json.loads((tmp_path / "texts/manifest.json").read_text())["dtype"] == "bfloat16"
    main(flags(tiny, tmp_path, *few, "--dtype", "bfloat16"))  # the same by its name
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    for more in (("--dtype", "auto"), ()):
        with pytest.raises(UserError, match="dtype = 'bfloat16', this run has 'float32'"):
            main(flags(tiny, tmp_path, *few, *more))
