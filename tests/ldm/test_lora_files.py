"""LoRA files of other programs: names, alphas and weights; what fits no weight."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from diffusers.utils import convert_state_dict_to_kohya
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file

from egogen.errors import UserError
from egogen.manifest import file_hash
from ldm.checkpoints.lora_files import PEFT_FILE, PEFT_SETTINGS, apply_loras, told_loras
from ldm.config.lora import LoraFile
from ldm.networks.architecture import Parts, build, widened
from tests.ldm.toy_run import ATTENTIVE

TARGETS = [
    "to_q",
    "to_out.0",
    "proj_in",
    "ff.net.0.proj",
    "conv1",
    "conv_shortcut",
    "time_emb_proj",
    "conv_in",
]
RANK, ALPHA, WEIGHT = 3, 5, 0.7
Tensors = dict[str, torch.Tensor]


def predict(unet: UNet2DConditionModel) -> torch.Tensor:
    draws = torch.Generator().manual_seed(0)
    latents, context = (torch.randn(shape, generator=draws) for shape in ((2, 8, 16, 16), (2, 9, 32)))
    with torch.no_grad():
        return unet.eval()(latents, torch.tensor([10, 700]), context).sample


@pytest.fixture(scope="module")
def plain() -> Parts:
    torch.manual_seed(0)
    return build(ATTENTIVE, conditioner=False)


@pytest.fixture(scope="module")
def settings() -> peft.LoraConfig:
    return peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=TARGETS, init_lora_weights=False)


@pytest.fixture(scope="module")
def adapted(plain: Parts, settings: peft.LoraConfig) -> UNet2DConditionModel:
    """The witness: peft's own layers, random ones, at a weight."""
    torch.manual_seed(1)
    unet = deepcopy(plain.unet)
    unet.add_adapter(settings)
    unet.set_adapters("default", WEIGHT)
    return unet


@pytest.fixture(scope="module")
def expected(adapted: UNet2DConditionModel, plain: Parts) -> torch.Tensor:
    found = predict(adapted)
    assert (found - predict(plain.unet)).abs().max() > 0.1
    return found


@pytest.fixture(scope="module")
def tensors(adapted: UNet2DConditionModel) -> Tensors:
    return get_peft_model_state_dict(adapted)


def told(settings: peft.LoraConfig) -> dict[str, Any]:
    found = settings.to_dict()
    return {name: sorted(value) if isinstance(value, set) else value for name, value in found.items()}


def by_diffusers(tensors: Tensors, settings: peft.LoraConfig, folder: Path) -> Path:
    StableDiffusionPipeline.save_lora_weights(
        folder, unet_lora_layers=tensors, unet_lora_adapter_metadata=told(settings)
    )
    return folder / "pytorch_lora_weights.safetensors"


def by_older_diffusers(tensors: Tensors, settings: peft.LoraConfig, folder: Path) -> Path:
    """Names of before peft, of attention's processors too; no alpha, which is then the rank."""
    del settings
    state = {}
    for name, value in tensors.items():
        old = name.replace(".lora_A", ".lora.down").replace(".lora_B", ".lora.up")
        old = old.replace(".to_q.lora", ".processor.to_q_lora").replace(
            ".to_out.0.lora", ".processor.to_out_lora"
        )
        state[f"unet.{old}"] = value * (ALPHA / RANK if ".lora_B" in name else 1)
    torch.save(state, folder / "old.bin")
    return folder / "old.bin"


def by_peft(tensors: Tensors, settings: peft.LoraConfig, folder: Path) -> Path:
    """A folder, as `PeftModel.save_pretrained` leaves it."""
    save_file(
        {f"base_model.model.{name}": value for name, value in tensors.items()},
        folder / "adapter_model.safetensors",
    )
    settings.save_pretrained(folder)
    return folder


def by_kohya(tensors: Tensors, settings: peft.LoraConfig, folder: Path) -> Path:
    """As the scripts of kohya and LCM-LoRA; an alpha for each layer."""
    del settings
    state = convert_state_dict_to_kohya({f"unet.{name}": value for name, value in tensors.items()})
    assert all(name.startswith("lora_unet_") for name in state)
    alphas = {name.split(".")[0] + ".alpha": torch.tensor(float(ALPHA)) for name in state}
    save_file({**state, **alphas}, folder / "kohya.safetensors")
    return folder / "kohya.safetensors"


@pytest.mark.parametrize("writer", [by_diffusers, by_older_diffusers, by_peft, by_kohya])
def test_files_in_all_namings_add_what_peft_adds(
    writer: Callable[..., Path],
    plain: Parts,
    tensors: Tensors,
    settings: peft.LoraConfig,
    expected: torch.Tensor,
    tmp_path: Path,
) -> None:
    """Witness: a UNet with peft's layers, whose files are written by diffusers and peft; 1e-5."""
    parts = deepcopy(plain)
    apply_loras(parts, [LoraFile(str(writer(tensors, settings, tmp_path)), WEIGHT)], tmp_path)
    torch.testing.assert_close(predict(parts.unet), expected, atol=1e-5, rtol=1e-4)


def test_what_a_model_saves_itself_states_its_alpha(
    plain: Parts, adapted: UNet2DConditionModel, expected: torch.Tensor, tmp_path: Path
) -> None:
    """By `save_lora_adapter`: neither tensors nor settings name the network."""
    parts, unet = deepcopy(plain), deepcopy(adapted)
    unet.save_lora_adapter(tmp_path)
    apply_loras(parts, [LoraFile(str(tmp_path), WEIGHT)], tmp_path)
    torch.testing.assert_close(predict(parts.unet), expected, atol=1e-5, rtol=1e-4)


def test_adapters_that_change_nothing_are_told(
    plain: Parts, tensors: Tensors, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    parts, path = deepcopy(plain), tmp_path / "x.safetensors"
    for factor, told in ((1.0, False), (0.0, True)):
        save_file({f"unet.{name}": value * factor for name, value in tensors.items()}, path)
        apply_loras(parts, [LoraFile(str(path), 0.0)], tmp_path)  # a weight of 0 was asked for
        assert (f"{path}: changes nothing: the alphas" in caplog.text) is told


def test_patterns_and_rank_stabilised_scales(plain: Parts, tmp_path: Path) -> None:
    """Alphas by layer and alpha / sqrt(rank), as peft has them; 1e-5."""
    settings = peft.LoraConfig(
        r=RANK, lora_alpha=ALPHA, target_modules=["to_q", "to_k"], alpha_pattern={"to_k": 9}, use_rslora=True,
        init_lora_weights=False,
    )  # fmt: skip
    unet, parts = deepcopy(plain.unet), deepcopy(plain)
    unet.add_adapter(settings)
    path = by_diffusers(get_peft_model_state_dict(unet), settings, tmp_path)
    apply_loras(parts, [LoraFile(str(path))], tmp_path)
    torch.testing.assert_close(predict(parts.unet), predict(unet), atol=1e-5, rtol=1e-4)


def test_the_text_encoder_and_the_first_convolution_of_stable_diffusion(plain: Parts, tmp_path: Path) -> None:
    """Closed form W + weight alpha / rank B A; 1e-6. The channels of the source frame stay as they are."""
    parts = deepcopy(plain)
    down, up = torch.randn(2, 32), torch.randn(32, 2)
    first_down, first_up = torch.randn(2, 4, 3, 3), torch.randn(32, 2, 1, 1)
    layer = "lora_te_text_model_encoder_layers_0_self_attn_q_proj"
    save_file(
        {
            f"{layer}.lora_down.weight": down, f"{layer}.lora_up.weight": up,
            f"{layer}.alpha": torch.tensor(4.0),
            "lora_unet_conv_in.lora_down.weight": first_down, "lora_unet_conv_in.lora_up.weight": first_up,
        }, tmp_path / "x.safetensors",
    )  # fmt: skip
    apply_loras(parts, [LoraFile(str(tmp_path / "x.safetensors"), 0.5)], tmp_path)
    (found,) = (
        each
        for own, each in parts.text_encoder.named_parameters()
        if own.endswith("layers.0.self_attn.q_proj.weight")
    )
    (before,) = (
        each
        for own, each in plain.text_encoder.named_parameters()
        if own.endswith("layers.0.self_attn.q_proj.weight")
    )
    torch.testing.assert_close(found, before + 0.5 * 2 * up @ down, atol=1e-6, rtol=1e-6)
    product = torch.einsum("or,rikl->oikl", first_up[:, :, 0, 0], first_down)
    added = parts.unet.conv_in.weight - plain.unet.conv_in.weight
    torch.testing.assert_close(added, 0.5 * widened(product, 8), atol=1e-5, rtol=1e-5)


def renamed(tensors: Tensors) -> Tensors:
    return {name.replace("mid_block", "middle"): value for name, value in tensors.items()}


def halved(tensors: Tensors) -> Tensors:
    return {name: value for name, value in tensors.items() if name != "conv_in.lora_B.weight"}


def narrow(tensors: Tensors) -> Tensors:
    return {**tensors, "conv_in.lora_B.weight": torch.zeros(8, RANK, 1, 1)}


def without_rank(tensors: Tensors) -> Tensors:
    return {**tensors, "conv_in.lora_A.weight": torch.zeros(0, 8, 3, 3)}


def twice_by_marks(tensors: Tensors) -> Tensors:
    more = {
        name.replace("conv_in", "conv.in"): tensors[name].clone() for name in tensors if "conv_in" in name
    }
    return {**tensors, **more}


def twice_by_kind(tensors: Tensors) -> Tensors:
    return {**tensors, "conv_in.lora_down.weight": tensors["conv_in.lora_A.weight"].clone()}


def not_a_number(tensors: Tensors) -> Tensors:
    spoilt = tensors["conv_in.lora_A.weight"].clone()
    spoilt.view(-1)[0] = torch.nan
    return {**tensors, "conv_in.lora_A.weight": spoilt}


def endless_alpha(tensors: Tensors) -> Tensors:
    return {**tensors, "conv_in.alpha": torch.tensor(torch.inf)}


def of_loha(tensors: Tensors) -> Tensors:
    return {**tensors, "lora_unet_conv_in.hada_w1_a": torch.zeros(2, 2)}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            renamed,
            r"[1-9]\d* of its \d+ adapters cannot be added .*the first is unet.middle.*: no such layer",
        ),
        (halved, r"1 of its \d+ adapters cannot .*unet.conv_in: one of its two matrices is missing"),
        (
            narrow,
            r"1 of its \d+ adapters cannot .*conv_in: A is \(3, 8, 3, 3\) and B \(8, 3, 1, 1\), the weight",
        ),
        (without_rank, r"1 of its \d+ adapters cannot .*unet.conv_in: its rank is 0"),
        (twice_by_marks, r"1 of its \d+ adapters cannot .*unet.conv.in: this layer is there twice"),
        (twice_by_kind, r"1 of its \d+ adapters cannot .*unet.conv_in: this layer is there twice"),
        (not_a_number, r"1 of its \d+ adapters cannot .*unet.conv_in: holds NaN or infinity"),
        (endless_alpha, r"1 of its \d+ adapters cannot .*unet.conv_in: holds NaN or infinity"),
        (of_loha, r"1 tensors are of none, the first 'unet.lora_unet_conv_in.hada_w1_a'; nothing was added"),
        (lambda tensors: {"x": next(iter(tensors.values()))}, r"1 tensors are of none, the first 'unet.x'"),
    ],
)
def test_what_fits_only_partly_is_counted_and_nothing_is_added(
    change: Callable[[Tensors], Tensors], said: str, plain: Parts, tensors: Tensors, tmp_path: Path
) -> None:
    parts = deepcopy(plain)
    state = {f"unet.{name}": value for name, value in change(tensors).items()}
    save_file(state, tmp_path / "x.safetensors")
    with pytest.raises(
        UserError, match=rf"x.safetensors: {'expected a LoRA .*; ' * ('are of' in said)}{said}"
    ):
        apply_loras(parts, [LoraFile(str(tmp_path / "x.safetensors"))], tmp_path)
    own = plain.unet.state_dict()
    assert all(torch.equal(value, own[name]) for name, value in parts.unet.state_dict().items())


def test_settings_beside_a_file_are_part_of_what_it_is(
    tensors: Tensors, settings: peft.LoraConfig, tmp_path: Path
) -> None:
    """Witness: SHA-256 of the two files; the folder's own hash covers both."""
    by_peft(tensors, settings, tmp_path)
    file, beside = tmp_path / PEFT_FILE, tmp_path / PEFT_SETTINGS
    asked = [LoraFile(str(file)), LoraFile(str(tmp_path))]
    first, whole = told_loras(asked)
    assert first == {"sha256": file_hash(file), "weight": 1.0, "settings": file_hash(beside)}
    assert whole.keys() == {"sha256", "weight"}
    beside.write_text(json.dumps({**json.loads(beside.read_text()), "lora_alpha": 2 * ALPHA}))
    now = told_loras(asked)
    assert now[0] != first
    assert now[1] != whole
    file.rename(tmp_path / "other.safetensors")  # of which the settings are not read
    assert "settings" not in told_loras([LoraFile(str(tmp_path / "other.safetensors"))])[0]


def test_what_is_no_lora(plain: Parts, tmp_path: Path) -> None:
    for path, said in (
        (tmp_path / "none.safetensors", "no such checkpoint file"),
        (tmp_path, "has neither pytorch_lora_weights.safetensors nor adapter_model.safetensors"),
    ):
        with pytest.raises(UserError, match=said):
            apply_loras(plain, [LoraFile(str(path))], tmp_path)
    told = {"lora_adapter_metadata": json.dumps({"unet.use_dora": True})}
    save_file({"unet.x.lora_A.weight": torch.zeros(1)}, tmp_path / "dora.safetensors", metadata=told)
    with pytest.raises(UserError, match="is a DoRA"):
        apply_loras(plain, [LoraFile(str(tmp_path / "dora.safetensors"))], tmp_path)


@pytest.mark.parametrize(
    "setting",
    [{"init_lora_weights": "pissa"}, {"init_lora_weights": "olora"}, {"peft_type": "LOHA"}, {"bias": "all"},
     {"fan_in_fan_out": True}, {"layer_replication": [[0, 1]]}, {"a_later_key": 3}],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("writer", [by_diffusers, by_peft])
def test_settings_that_are_not_understood_are_refused(
    writer: Callable[..., Path], setting: dict[str, Any], plain: Parts, tensors: Tensors, tmp_path: Path
) -> None:
    """As stage 1 refuses them. PiSSA's factors, say, belong to another base than the one that is named."""
    path = writer(tensors, peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=TARGETS), tmp_path)
    if path.is_dir():
        beside = path / PEFT_SETTINGS
        beside.write_text(json.dumps({**json.loads(beside.read_text()), **setting}))
    else:
        stated = {f"unet.{name}": value for name, value in setting.items()}
        save_file(tensors_named(tensors), path, {"lora_adapter_metadata": json.dumps(stated)})
    (key, value), *_ = setting.items()
    with pytest.raises(UserError, match=re.escape(f"{key} is {value!r}, which is not understood here")):
        apply_loras(plain, [LoraFile(str(path))], tmp_path)


def tensors_named(tensors: Tensors) -> Tensors:
    return {f"unet.{name}": value for name, value in tensors.items()}


def test_alphas_for_layers_that_are_not_there_are_told(
    plain: Parts, tensors: Tensors, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Peft passes over such patterns without a word, anchored ones too."""
    for pattern, lost in (("to_q", False), ("^to_q", True), ("to_nothing", True)):
        caplog.clear()
        stated = json.dumps({"unet.lora_alpha": ALPHA, "unet.alpha_pattern": {pattern: 9}})
        save_file(tensors_named(tensors), tmp_path / "x.safetensors", {"lora_adapter_metadata": stated})
        apply_loras(deepcopy(plain), [LoraFile(str(tmp_path / "x.safetensors"))], tmp_path)
        assert (f"alpha_pattern names {pattern!r}, which fits none of its layers" in caplog.text) is lost
