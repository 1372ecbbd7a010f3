import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from egogen.errors import UserError
from llava.checkpoints.config_json import llava_config, text_settings, vision_settings
from llava.model import Llava, count_parameters, freeze_vision, load, pick_device, save
from llava.tuning.conversations import Collate, Example, TuningBatch
from tests.llava.conftest import ORACLE, Loaded

ARRAYS = np.load(ORACLE / "forward.npz")
FACTS = json.loads((ORACLE / "forward.json").read_text())


def batch_of(name: str) -> TuningBatch:
    """The recorded batch: single image places, right padding."""
    items = []
    for ids, labels, mask, image in zip(
        *(ARRAYS[f"{name}.{key}"] for key in ("input_ids", "labels", "attention_mask", "pixel_values")),
        strict=True,
    ):
        kept = mask.astype(bool)
        items.append((Example(ids[kept].tolist(), labels[kept].tolist(), None), torch.from_numpy(image)))
    return Collate(16)(items)


@pytest.mark.parametrize("name", ["pair", "mixed"])
def test_forward_is_that_of_the_published_code(name: str, loaded: Loaded) -> None:
    model = loaded[0]
    batch = batch_of(name)
    assert np.array_equal(batch["attention_mask"].numpy(), ARRAYS[f"{name}.spliced_attention_mask"])
    assert np.array_equal(batch["labels"].numpy(), ARRAYS[f"{name}.spliced_labels"])
    with torch.no_grad():
        made = model(**batch)
        core = {key: value for key, value in batch.items() if key != "labels"}
        hidden = model.model(**core).last_hidden_state
    # Tolerances: the oracle's; transformers 5 differs by 5e-6 at most.
    assert made.loss.item() == pytest.approx(FACTS[name]["loss"], abs=1e-5)
    for row in range(len(made.logits)):
        places = ARRAYS[f"{name}.logits_pos_{row}"]
        np.testing.assert_allclose(made.logits[row, places], ARRAYS[f"{name}.logits_{row}"], atol=1e-4)
        kept = batch["attention_mask"][row].bool()
        np.testing.assert_allclose(hidden[row][kept], ARRAYS[f"{name}.hidden_last_{row}"], atol=1e-4)


def test_image_features_are_those_of_the_published_code(loaded: Loaded) -> None:
    with torch.no_grad():
        features = loaded[0].model.project(torch.from_numpy(ARRAYS["pair.pixel_values"]))
    np.testing.assert_allclose(features, ARRAYS["pair.image_features"], atol=1e-4)


def test_gradients_are_those_of_the_published_code(tiny: Path) -> None:
    model = load(tiny)[0]
    freeze_vision(model)
    assert count_parameters(model) == (183168, 45152)
    model(**batch_of("pair")).loss.backward()
    squares = sum(p.grad.double().square().sum().item() for p in model.parameters() if p.grad is not None)
    assert squares**0.5 == pytest.approx(FACTS["pair"]["grad_norm_total"], rel=1e-4)
    assert all(p.grad is None for p in model.model.vision_tower.parameters())


def test_what_is_saved_is_what_is_loaded(loaded: Loaded, tmp_path: Path) -> None:
    save(*loaded, tmp_path / "any name")
    model, tokenizer, processor = load(tmp_path / "any name")
    before, after = loaded[0].state_dict(), model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert tokenizer("a </s><s>[INST] x").input_ids == loaded[1]("a </s><s>[INST] x").input_ids
    assert processor.crop_size == loaded[2].crop_size
    assert (tmp_path / "any name" / "tokenizer.model").exists()


def test_clip_is_loaded_anew_and_the_choice_is_logged(
    own_tiny: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    clip = own_tiny.parent / "openai" / "clip-tiny-v" / "pytorch_model.bin"
    weights = torch.load(clip, weights_only=True)
    weights["vision_model.pre_layrnorm.weight"] += 1
    torch.save(weights, clip)
    model = load(own_tiny)[0]
    assert torch.equal(
        model.model.vision_tower.pre_layrnorm.weight, weights["vision_model.pre_layrnorm.weight"]
    )
    assert "not the checkpoint's copy" in caplog.text


def published(folder: Path, text_changes: dict[str, object] | None = None) -> dict[str, torch.Tensor]:
    """Weights and config of a published folder, to be written back after a change."""
    config = json.loads((folder / "config.json").read_text())
    config.update(text_changes or {})
    (folder / "config.json").write_text(json.dumps(config))
    return torch.load(folder / "pytorch_model.bin", weights_only=True)


def test_without_clip_the_checkpoint_s_own_vision_serves(
    own_tiny: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("llava.checkpoints.config_json.CLIP_HEAD_WIDTH", 8)
    expected = load(own_tiny)[0].state_dict()
    shutil.rmtree(own_tiny.parent / "openai")
    made = load(own_tiny)
    assert "own weights" in caplog.text
    assert all(torch.equal(value, made[0].state_dict()[name]) for name, value in expected.items())
    assert made[2].crop_size["height"] == 56


def test_without_any_vision_the_message_tells_where_to_put_clip(
    own_tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llava.checkpoints.clip_tower.download", refuse_download)
    weights = published(own_tiny)
    torch.save(
        {name: value for name, value in weights.items() if "vision_tower" not in name},
        own_tiny / "pytorch_model.bin",
    )
    assert load(own_tiny)  # CLIP's folder is there: published folders may lack vision keys
    shutil.rmtree(own_tiny.parent / "openai")
    with pytest.raises(UserError, match="not here"):
        load(own_tiny)


def refuse_download(name: str, folder: Path, *, local_only: bool) -> Path:
    raise UserError(f"{folder}: {name} not here ({local_only})")


def test_leftovers_and_safetensors_and_shards_are_read(own_tiny: Path) -> None:
    expected = load(own_tiny)[0].state_dict()
    weights = published(own_tiny)
    weights["model.vision_tower.vision_tower.vision_model.embeddings.position_ids"] = torch.arange(17)[None]
    (own_tiny / "pytorch_model.bin").unlink()
    names = sorted(weights)
    parts = {"model-00001-of-00002.safetensors": names[:30], "model-00002-of-00002.safetensors": names[30:]}
    for file, part in parts.items():
        save_file({name: weights[name].contiguous() for name in part}, own_tiny / file)
    weight_map = {name: file for file, part in parts.items() for name in part}
    index = own_tiny / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    made = load(own_tiny)[0].state_dict()
    assert all(torch.equal(made[name], value) for name, value in expected.items())
    (own_tiny / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(UserError, match=r"model-00002-of-00002.safetensors: missing"):
        load(own_tiny)


def test_the_projector_of_llava_1_5_is_read_and_written(own_tiny: Path, tmp_path: Path) -> None:
    weights = published(own_tiny, {"mm_projector_type": "mlp2x_gelu"})
    weights["model.mm_projector.0.weight"] = weights.pop("model.mm_projector.weight")
    weights["model.mm_projector.0.bias"] = weights.pop("model.mm_projector.bias")
    weights["model.mm_projector.2.weight"], weights["model.mm_projector.2.bias"] = (
        torch.randn(64, 64),
        torch.randn(64),
    )
    torch.save(weights, own_tiny / "pytorch_model.bin")
    made = load(own_tiny)
    image = torch.from_numpy(ARRAYS["pair.pixel_values"])
    save(*made, tmp_path / "hf")
    with torch.no_grad():
        assert torch.equal(made[0].model.project(image), load(tmp_path / "hf")[0].model.project(image))
    assert made[0].model.multi_modal_projector.linear_2.bias.equal(weights["model.mm_projector.2.bias"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("lm_head.weight"), "1 weights are missing: lm_head.weight"),
        (lambda w: w.update({"model.extra": torch.zeros(2)}), "1 weights are unexpected: model.extra"),
        (
            lambda w: w.update({"lm_head.weight": torch.zeros(641, 64)}),
            r"lm_head.weight has shape \(641, 64\)",
        ),
        (lambda w: w.update({"model.vision_tower.norm": torch.zeros(2)}), None),
    ],
)
def test_wrong_weights_are_named(
    own_tiny: Path, change: Callable[[dict[str, torch.Tensor]], object], message: str | None
) -> None:
    weights = published(own_tiny)
    change(weights)
    torch.save(weights, own_tiny / "pytorch_model.bin")
    if message is None:  # vision keys of the checkpoint are not used where CLIP is at hand
        assert load(own_tiny)
        return
    with pytest.raises(UserError, match=message):
        load(own_tiny)


class Evil:
    def __reduce__(self: Any) -> tuple[Any, ...]:
        return (print, ("run",))


def test_broken_files_are_named(own_tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = own_tiny / "pytorch_model.bin"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"pytorch_model.bin: not a readable weight file"):
        load(own_tiny)
    torch.save({"x": Evil()}, path)
    with pytest.raises(UserError, match=r"pytorch_model.bin: not a readable weight file"):
        load(own_tiny)
    assert "run" not in capsys.readouterr().out
    path.unlink()
    with pytest.raises(UserError, match="no weights here"):
        load(own_tiny)
    with pytest.raises(UserError, match="no such checkpoint folder"):
        load(own_tiny / "nothing")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "llama"}, "model_type is 'llama'"),
        ({"mm_vision_select_layer": -1}, "mm_vision_select_layer is -1"),
        ({"mm_use_im_start_end": True}, "mm_use_im_start_end is True"),
    ],
)
def test_other_models_are_refused(own_tiny: Path, changes: dict[str, object], message: str | None) -> None:
    published(own_tiny, changes)
    with pytest.raises(UserError, match=message):
        load(own_tiny)


def test_a_folder_without_tokenizer_is_refused(own_tiny: Path) -> None:
    (own_tiny / "tokenizer.model").write_bytes(b"no model")
    with pytest.raises(UserError, match="tokenizer cannot be read"):
        load(own_tiny)
    (own_tiny / "tokenizer.model").unlink()
    with pytest.raises(UserError, match="no tokenizer here"):
        load(own_tiny)


def test_saved_weights_are_safetensors_with_vision(loaded: Loaded, tmp_path: Path) -> None:
    save(*loaded, tmp_path / "hf")
    names = load_file(tmp_path / "hf" / "model.safetensors")
    assert any("vision_tower" in name for name in names)
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["mm_projector_type"] == "linear"


def test_a_model_is_built_from_settings_alone(loaded: Loaded) -> None:
    config = loaded[0].config
    model = Llava(llava_config(text_settings(config), vision_settings(config), ""))
    assert model.patches == 16


def test_an_unknown_device_is_refused() -> None:
    assert pick_device("cpu").type == "cpu"
    with pytest.raises(UserError, match="allowed: auto, cpu, cuda"):
        pick_device("abacus")


def test_a_batch_without_supervised_tokens_has_no_nan(loaded: Loaded) -> None:
    model = loaded[0]
    ids = torch.tensor([[1, 5, 6, 7]])
    labels = torch.full_like(ids, -100)
    for count in (None, 0, torch.tensor(0)):
        loss = model(input_ids=ids, labels=labels, num_items_in_batch=count).loss
        assert loss.item() == 0
        loss.backward()
    labels[0, 3] = 7
    one = model(input_ids=ids, labels=labels).loss
    expected = torch.nn.functional.cross_entropy(model(input_ids=ids).logits[:, 2], ids[:, 3])
    assert torch.allclose(one, expected)
    model.zero_grad()


def test_a_vision_tower_may_be_given_by_name(
    own_tiny: Path, monkeypatch: pytest.MonkeyPatch, loaded: Loaded
) -> None:
    monkeypatch.setattr("llava.checkpoints.clip_tower.download", refuse_download)
    # Beside the checkpoint, as `mm_vision_tower` would name it.
    model = load(own_tiny, vision_tower=Path("openai/clip-tiny-v"))[0]
    expected = loaded[0].state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())
    with pytest.raises(UserError, match="openai/other not here"):
        load(own_tiny, vision_tower=Path("openai/other"))
    with pytest.raises(UserError, match="no CLIP here"):
        load(own_tiny, vision_tower=own_tiny.parent)
