import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers.quantizers.quantizers_utils import should_convert_module

from egogen.errors import UserError
from llava.checkpoints.adapter_folder import is_adapter, whole_of
from llava.checkpoints.adapters import (
    NOT_QUANTIZED,
    add_adapters,
    four_bits,
)
from llava.checkpoints.lora_arguments import LoraArguments
from llava.convert import main as convert
from llava.model import freeze_vision, load
from llava.train import main
from tests.forked import Forked, command
from tests.llava.conftest import Loaded
from tests.llava.training import flags, losses, zero

LORA = ("--lora_enable", "True", "--lora_r", "4", "--lora_alpha", "8", "--lora_dropout", "0")


@pytest.fixture(scope="module")
def adapters(data: Path, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six updates of adapters and projector."""
    out = tmp_path_factory.mktemp("lora") / "run"
    main(flags(data, tiny, out, "--num_train_epochs", "2", "--save_steps", "2", *LORA))
    return out


def test_adapters_learn_and_merge_on_loading(adapters: Path, loaded: Loaded) -> None:
    assert is_adapter(adapters)
    assert losses(adapters)[-1] < losses(adapters)[0]
    before, after = loaded[0].state_dict(), load(adapters)[0].state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert before.keys() == after.keys()
    parts = ("multi_modal_projector", "self_attn", "mlp")
    assert changed == {
        name for name in before if "vision_tower" not in name and any(part in name for part in parts)
    }
    # The update of a matrix has the adapters' rank.
    name = next(name for name in changed if "q_proj" in name)
    assert torch.linalg.matrix_rank(after[name] - before[name], rtol=1e-3) <= 4


def test_merged_adapters_are_written_in_both_formats(adapters: Path, tmp_path: Path) -> None:
    expected = load(adapters)[0].state_dict()
    for direction in ("llava2hf", "hf2llava"):
        convert([direction, str(adapters), str(tmp_path / direction)])
        made = load(tmp_path / direction)[0].state_dict()
        assert all(torch.equal(value, made[name]) for name, value in expected.items())
    config = json.loads((tmp_path / "hf2llava/config.json").read_text())
    assert config["mm_vision_tower"]


def test_adapters_go_on_where_they_stopped(
    adapters: Path,
    data: Path,
    tiny: Path,
    tmp_path: Path,
) -> None:
    argv = flags(data, tiny, tmp_path, "--num_train_epochs", "2", "--save_steps", "2", *LORA)
    main(argv)
    assert losses(tmp_path) == pytest.approx(losses(adapters), abs=1e-5)
    for path in (tmp_path / "complete.json", tmp_path / "checkpoint-6/complete.json"):
        path.unlink()
    main(argv)  # from checkpoint-4
    assert losses(tmp_path) == pytest.approx(losses(adapters), abs=1e-4)


def test_adapters_of_other_places_are_not_gone_on_from(
    adapters: Path, data: Path, tiny: Path, tmp_path: Path
) -> None:
    """Transformers hands on no word of adapters that did not fit."""
    out = tmp_path / "run"
    shutil.copytree(adapters, out, ignore=shutil.ignore_patterns("checkpoint-6"))
    (out / "complete.json").unlink()
    path = out / "checkpoint-4" / "adapter_model.safetensors"
    tensors = load_file(path)
    gone = next(name for name in sorted(tensors) if "lora_A" in name)
    other = gone.replace("layers.0", "layers.7")
    tensors[other] = tensors.pop(gone)
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(UserError, match=rf"missing {re.escape(gone)}, unexpected {re.escape(other)}; delete"):
        main(flags(data, tiny, out, "--num_train_epochs", "2", "--save_steps", "2", *LORA))


def test_adapters_without_their_base_are_named(adapters: Path, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "/nowhere/llava"}')
    with pytest.raises(UserError, match="'/nowhere/llava', which is no folder here"):
        whole_of(tmp_path)
    (adapters / "adapter_model.safetensors").rename(adapters / "kept")
    (adapters / "adapter_model.safetensors").write_bytes((adapters / "kept").read_bytes()[:500])
    with pytest.raises(UserError, match=r"adapter_model.safetensors: not a readable weight file"):
        load(adapters)
    (adapters / "kept").replace(adapters / "adapter_model.safetensors")


def test_four_bits_need_bitsandbytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llava.checkpoints.adapters.find_spec", lambda _: None)
    with pytest.raises(UserError, match="needs bitsandbytes"):
        four_bits()
    with pytest.raises(UserError, match="add --lora_enable True"):
        LoraArguments(bits=4)
    with pytest.raises(UserError, match="expected 16, or 4"):
        LoraArguments(bits=8)
    with pytest.raises(UserError, match="--lora_r 0"):
        LoraArguments(lora_r=0)


def test_four_bit_weights_leave_vision_projector_and_head_as_they_are(loaded: Loaded) -> None:
    names = [name for name, part in loaded[0].named_modules() if isinstance(part, torch.nn.Linear)]
    converted = {name for name in names if should_convert_module(name, NOT_QUANTIZED)}
    assert converted == {name for name in names if "language_model" in name}


def test_whole_numbers_are_frozen(tiny: Path) -> None:
    model = load(tiny)[0]
    model.lm_head.weight = torch.nn.Parameter(torch.zeros(2, dtype=torch.uint8), requires_grad=False)
    freeze_vision(model)
    assert not model.lm_head.weight.requires_grad
    assert model.get_input_embeddings().weight.requires_grad


@pytest.mark.slow
def test_adapters_under_zero_3_learn_in_16_bits_without_a_launcher(
    adapters: Path, data: Path, tiny: Path, tmp_path: Path
) -> None:
    """The first losses are those of 32 bits without ZeRO; one process needs no torchrun, nor MPI."""
    argv = [*flags(data, tiny, tmp_path, "--num_train_epochs", "2", "--max_steps", "2", *LORA)]
    process = Forked(
        command, "llava.train", [*argv, *zero(tmp_path, 3), "--bf16", "True"], log=tmp_path / "log"
    )
    assert process.wait() == 0, process.printed
    assert losses(tmp_path) == pytest.approx(losses(adapters)[:2], abs=0.1)
    saved = load_file(tmp_path / "adapter_model.safetensors").values()
    assert {value.dtype for value in saved} == {torch.bfloat16}


def test_adapters_are_trained_in_32_bits(tiny: Path) -> None:
    model = load(tiny, dtype=torch.bfloat16)[0]
    adapted = add_adapters(model, LoraArguments(lora_enable=True, lora_r=2), tiny)
    assert {value.dtype for value in adapted.parameters() if value.requires_grad} == {torch.float32}
