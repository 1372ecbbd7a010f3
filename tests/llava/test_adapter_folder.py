"""Adapters of others: every tensor lands on a weight, in any spelling, or the folder is refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from torch import Tensor

from egogen.errors import UserError
from egogen.files import write_json
from llava.checkpoints.adapter_folder import read_adapters, whole_of
from llava.convert import main as convert
from llava.model import load, read_checkpoint
from llava.train import main as train
from tests.llava.conftest import Loaded
from tests.llava.training import Payload, flags

ENDS = ("q_proj", "v_proj", "down_proj")
RANK = 2
Tensors = dict[str, Tensor]
Config = dict[str, Any]
# How the field spells the places of the same weights: LLaVA's, transformers' LLaVA before and since 4.52.
SPELLINGS = {
    "llava": ("model.layers.", "model.mm_projector."),
    "hf": ("language_model.model.layers.", "multi_modal_projector."),
    "hf now": ("model.language_model.layers.", "model.multi_modal_projector."),
}


def tensors_of(base: Loaded, layers: str = "model.layers.", mark: str = "") -> Tensors:
    """Random adapters of all layers in one spelling; `mark` is what stands between lora_A and weight."""
    torch.manual_seed(0)
    made = {}
    for name, value in base[0].model.language_model.state_dict().items():
        stem = name.removesuffix(".weight")
        if stem.endswith(ENDS):
            stem = f"base_model.model.{layers}{stem.removeprefix('layers.')}"
            made[f"{stem}.lora_A{mark}.weight"] = torch.randn(RANK, value.shape[1])
            made[f"{stem}.lora_B{mark}.weight"] = torch.randn(value.shape[0], RANK)
    return made


def projector_of(base: Loaded, spelled: str) -> Tensors:
    state = base[0].model.multi_modal_projector.state_dict()
    return {f"base_model.model.{spelled}{name}": torch.full_like(value, 0.5) for name, value in state.items()}


Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path, tiny: Path) -> Write:
    """Writes a folder of adapters on the tiny checkpoint."""

    def write(tensors: Tensors, beside: Tensors | None = None, suffix: str = ".bin", **more: object) -> Path:
        folder = tmp_path / "adapters"
        folder.mkdir(exist_ok=True)
        if suffix == ".bin":
            torch.save(tensors, folder / "adapter_model.bin")
        else:
            save_file(
                {name: value.contiguous() for name, value in tensors.items()},
                folder / f"adapter_model{suffix}",
            )
        if beside is not None:
            torch.save(beside, folder / "non_lora_trainables.bin")
        config = {"base_model_name_or_path": str(tiny), "peft_type": "LORA", "task_type": "CAUSAL_LM"}
        config |= {"r": RANK, "lora_alpha": 8, "target_modules": list(ENDS), "bias": "none", **more}
        write_json(folder / "adapter_config.json", config)
        return folder

    return write


@pytest.mark.parametrize("suffix", [".bin", ".safetensors"])
@pytest.mark.parametrize("mark", ["", ".default"])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_each_spelling_changes_the_same_weights(
    spelling: str, mark: str, suffix: str, loaded: Loaded, write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    layers, projector = SPELLINGS[spelling]
    tensors = tensors_of(loaded, layers, mark)
    before = loaded[0].state_dict()
    after = load(write(tensors, projector_of(loaded, projector), suffix))[0].state_dict()
    changed = [name for name in before if not before[name].equal(after[name])]
    assert len(changed) == len(tensors) // 2 + 2
    assert f"adapters changed {len(changed)} of {len(changed)} weights" in caplog.text
    plain = tensors_of(loaded)
    for name in changed:
        if "projector" in name:
            assert after[name].eq(0.5).all()
            continue
        stem = name.removeprefix("model.language_model.").removesuffix(".weight")
        a, b = (plain[f"base_model.model.model.{stem}.lora_{half}.weight"] for half in "AB")
        torch.testing.assert_close(after[name] - before[name], 4 * b @ a, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rslora", [False, True])
def test_the_merge_is_pefts_own(rslora: bool, tiny: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    base = load(tiny)[0]
    base.name_or_path = str(tiny)
    pattern = r".*language_model.*\.(q_proj|up_proj)"
    config = LoraConfig(r=3, lora_alpha=7, target_modules=pattern, use_rslora=rslora)
    adapted = get_peft_model(base, config)
    assert isinstance(adapted, PeftModel)
    for name, value in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(value)
    adapted.save_pretrained(str(tmp_path))
    made = load(tmp_path)[0].state_dict()
    for name, value in adapted.merge_and_unload().state_dict().items():
        torch.testing.assert_close(made[name], value, atol=1e-6, rtol=1e-6)


def first(tensors: Tensors, part: str) -> str:
    return next(name for name in tensors if part in name)


def without(part: str) -> Callable[[Tensors], None]:
    def change(tensors: Tensors) -> None:
        del tensors[first(tensors, part)]

    return change


def without_all(part: str) -> Callable[[Tensors], None]:
    def change(tensors: Tensors) -> None:
        for name in [name for name in tensors if part in name]:
            del tensors[name]

    return change


def every(part: str, value: Callable[[Tensor], Tensor]) -> Callable[[Tensors], None]:
    def change(tensors: Tensors) -> None:
        tensors.update({name: value(tensor) for name, tensor in tensors.items() if part in name})

    return change


def added(name: str) -> Callable[[Tensors], None]:
    return lambda tensors: tensors.update({name: torch.ones(2)})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            added("base_model.model.model.norms.weight"),
            "1 of 13 tensors have no weight there",
        ),
        (added("base_model.model.model.layers.0.self_attn.q_proj.weight"), "an adapter and a whole weight"),
        (without("lora_B"), "lora_B of .* is missing"),
        (without("lora_A"), "lora_A of .* is missing"),
        (
            every("q_proj", lambda _: torch.empty(0)),
            r"shape \(0,\).*; it is empty; .*zero_to_fp32\.py",
        ),
        (every("q_proj.lora_A", lambda value: value[:1]), r"shape \(1, \d+\), expected \(2, "),
        (every("q_proj.lora_A", lambda value: value * torch.nan), "is not finite"),
        (
            lambda tensors: [tensors.pop(name) for name in list(tensors) if "layers.1." in name],
            "no adapter of",
        ),
        (
            lambda tensors: [tensors.pop(name) for name in list(tensors) if "down" in name],
            "no adapter of down_proj",
        ),
        (dict.clear, "holds no adapters"),
    ],
)
def test_adapters_that_do_not_fit_are_refused(
    change: Callable[[Tensors], object], said: str, loaded: Loaded, write: Write
) -> None:
    tensors = tensors_of(loaded)
    change(tensors)
    with pytest.raises(UserError, match=said):
        read_checkpoint(write(tensors))


def test_adapters_of_another_spelling_name_examples_of_both(loaded: Loaded, write: Write) -> None:
    folder = write(tensors_of(loaded, "transformer.h."))
    with pytest.raises(
        UserError,
        match=r"such as base_model.model.transformer.h.*base_model.model.model.language_model.layers",
    ):
        convert(["llava2hf", str(folder), str(folder.parent / "whole")])
    assert not (folder.parent / "whole").exists()


def test_untrained_adapters_are_refused(loaded: Loaded, write: Write) -> None:
    tensors = tensors_of(loaded)
    every("lora_B", torch.zeros_like)(tensors)
    with pytest.raises(UserError, match="change none of 6 weights"):
        load(write(tensors))


@pytest.mark.parametrize("kind", [torch.int8, torch.complex64])
def test_adapters_that_are_no_floats_are_refused(kind: torch.dtype, loaded: Loaded, write: Write) -> None:
    tensors = tensors_of(loaded)
    every("lora_A", lambda tensor: tensor.to(kind))(tensors)
    with pytest.raises(UserError, match=rf"holds {kind}, expected floating-point numbers; a quantised"):
        load(write(tensors))


def test_adapters_without_effect_are_named(
    loaded: Loaded, write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    tensors = tensors_of(loaded)
    every("q_proj.lora_B", torch.zeros_like)(tensors)
    load(write(tensors))
    assert "leave 2 weights as they are: model.language_model.layers.0.self_attn.q_proj.weight" in caplog.text


@pytest.mark.parametrize(
    "setting",
    [
        {"peft_type": "IA3"}, {"use_dora": True}, {"bias": "all"}, {"rank_pattern": {"q_proj": 4}},
        {"alpha_pattern": {"q_proj": 4}}, {"init_lora_weights": "pissa"}, {"fan_in_fan_out": True},
        {"layer_replication": [[0, 1]]}, {"a_later_key": 3}, {"r": 0}, {"r": "2"}, {"r": True},
        {"lora_alpha": None}, {"lora_alpha": -1}, {"modules_to_save": ["mm_projector"]},
        {"modules_to_save": ["lm_head"]},
    ],
    ids=str,
)  # fmt: skip
def test_settings_that_are_not_understood_are_refused(setting: Config, loaded: Loaded, write: Write) -> None:
    (key, value), *_ = setting.items()
    with pytest.raises(UserError, match=f"{key} is {re.escape(repr(value))}|no adapter of"):
        read_checkpoint(write(tensors_of(loaded), **setting))


@pytest.mark.parametrize(
    "beside",
    [
        {"base_model.model.model.embed_tokens.weight": torch.ones(2)},
        {"base_model.model.model.mm_projector.weight": torch.ones(2)},
        {},
    ],
)
def test_what_is_trained_beside_is_the_projector_alone(beside: Tensors, loaded: Loaded, write: Write) -> None:
    with pytest.raises(UserError, match=r"non_lora_trainables.bin: holds .*; expected the projector"):
        read_checkpoint(write(tensors_of(loaded), beside))


def test_a_projector_twice_is_refused(loaded: Loaded, write: Write) -> None:
    projector = projector_of(loaded, "model.mm_projector.")
    with pytest.raises(UserError, match="one of them must go"):
        read_checkpoint(write(tensors_of(loaded) | projector, projector))


@pytest.mark.parametrize("name", ["adapter_model.bin", "non_lora_trainables.bin"])
def test_a_file_that_holds_more_than_tensors_is_refused(
    name: str, loaded: Loaded, write: Write, tmp_path: Path
) -> None:
    folder = write(tensors_of(loaded))
    torch.save({"a": Payload(tmp_path / "ran")}, folder / name)
    with pytest.raises(
        UserError, match=rf"{name}: not a readable weight file \(refused: it names \w+.mkdir"
    ) as told:
        read_checkpoint(folder)
    assert "weights_only" not in str(told.value)
    assert not (tmp_path / "ran").exists()


def test_a_folder_that_is_two_things_is_refused(loaded: Loaded, write: Write) -> None:
    folder = write(tensors_of(loaded), base_model_name_or_path=None)
    with pytest.raises(UserError, match="base_model_name_or_path is None, which is no folder"):
        whole_of(folder)
    with pytest.raises(UserError, match="holds adapters itself"):
        whole_of(write(tensors_of(loaded), base_model_name_or_path=str(folder)))
    (folder / "model.safetensors").touch()
    with pytest.raises(UserError, match="adapters and a whole model"):
        whole_of(folder)
    (folder / "model.safetensors").unlink()
    write(tensors_of(loaded))
    (folder / "adapter_model.bin").unlink()
    with pytest.raises(UserError, match="no adapters beside"):
        read_adapters(folder, {})


def test_training_starts_from_merged_adapters(
    loaded: Loaded, write: Write, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write(tensors_of(loaded))
    main = flags(data, folder, tmp_path / "run", "--dry_run")
    train(main)
    assert "183,168 parameters" in capsys.readouterr().out
    with pytest.raises(UserError, match="holds adapters already"):
        train([*main, "--lora_enable", "True"])
