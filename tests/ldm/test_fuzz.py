"""Stage 2's readers under fire: checkpoints, LoRA files, settings. See `tests.egogen.test_fuzz`."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import strategies as st
from safetensors.torch import save
from torch import nn

from egogen.torchscript import read_torchscript
from ldm.checkpoints.lora_files import add_weights, read_lora
from ldm.checkpoints.safe_reading import read
from ldm.config.merge import load_config
from ldm.config.sections import TrainConfig
from ldm.networks.architecture import Parts
from tests.egogen.scripted import save_scripted
from tests.egogen.test_fuzz import Target, at, damaged, tensors
from tests.fuzzing import BUDGETS, TEXTS, VALUES, fuzz, misnamed, spoilt

NAMES = ("checkpoint", "torchscript", "lora", "config")
LAYERS = (
    "unet.to_q",
    "lora_unet_to_q",
    "base_model.model.to_q",
    "to_q.processor",
    "text_encoder.to_q",
    "unet.to_out",
)
ENDS = (
    "lora_A.weight",
    "lora_B.weight",
    "lora_down.weight",
    "lora_up.weight",
    "alpha",
    "lora.up",
    "default_0.weight",
)
CUT = b"\x80\x02J\x01"  # a pickle that ends within a number
SHAPES = st.sampled_from([(), (0,), (1,), (2, 4), (4, 2), (4, 2, 1, 1), (0, 4), (3, 3, 3)])
ADAPTER = {
    "unet.lora_alpha": 4,
    "unet.alpha_pattern": {"to_q": 2},
    "unet.use_rslora": False,
    "unet.use_dora": False,
}
SETTINGS = {
    "data": {"resolution": 32, "root": "${model.start}/x"},
    "model": {"start": "x"},
    "trainer": {"seed": 1},
}


def saved(value: object, old: bool = False) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, _use_new_zipfile_serialization=not old)
    return file.getvalue()


def lora_file(names: dict[str, tuple[int, ...]], told: object) -> bytes:
    state = {name.replace("\0", "") or "x": torch.ones(shape) for name, shape in names.items()}
    return save(state, {"lora_adapter_metadata": json.dumps(told)})


class Small(nn.Module):
    """A network with the layers that adapters here are for."""

    def __init__(self) -> None:
        super().__init__()
        self.to_q, self.to_out = nn.Linear(4, 4), nn.ModuleList([nn.Linear(4, 4)])


def read_adapters(path: Path) -> None:
    parts: Any = Parts(Small(), nn.Module(), Small(), None)  # type: ignore[arg-type]
    weights, said = read_lora(path)
    add_weights(parts, weights, said, path)


def targets(folder: Path) -> Iterator[tuple[str, Target]]:
    """The readers by name."""
    state = {"state_dict": {"a.weight": torch.ones(2, 3), "b": torch.ones(1)}, "resolution": 32, "epoch": 1}
    header = {"resolution": "32", "rows": '{"a": 9}', "beside": "{}"}
    plain = save({"a": torch.ones(2, 3), "a.rows": torch.tensor([0, 4])}, header)
    told = json.loads(plain[8 : 8 + int.from_bytes(plain[:8], "little")])
    changed = spoilt(told).map(lambda value: tensors(value, bytes(64)))
    old = saved(state, old=True)
    files = damaged(saved(state), old, plain) | VALUES.map(saved) | changed
    yield (
        "checkpoint",
        Target(
            files,
            ("x.ckpt",),
            at("x.ckpt", read),
            known=(CUT, misnamed(old), tensors({"a": {"data_offsets": [0, 0.0]}}, bytes(64))),
        ),
    )
    script = save_scripted({"a.weight": torch.ones(2, 3)}, folder / "x.pt").read_bytes()
    yield "torchscript", Target(damaged(script), ("x.pt",), at("x.pt", read_torchscript))
    names = st.builds(
        "{}.{}".format, st.sampled_from(LAYERS) | TEXTS.filter(str.isprintable), st.sampled_from(ENDS)
    )
    adapters = st.builds(lora_file, st.dictionaries(names, SHAPES, max_size=4), spoilt(ADAPTER))
    whole = lora_file({"unet.to_q.lora_A.weight": (2, 4), "unet.to_q.lora_B.weight": (4, 2)}, ADAPTER)
    yield "lora", Target(adapters | damaged(whole), ("x.safetensors",), at("x.safetensors", read_adapters))
    text = spoilt(SETTINGS).map(lambda value: json.dumps(value).encode())
    yaml = damaged(
        b"data: {resolution: 32, root: ${model.start}}\nmodel: &a {start: x}\n", *[b"trainer: {seed: 1}"]
    )
    yield (
        "config",
        Target(text | yaml, ("x.yaml",), at("x.yaml", lambda path: load_config(TrainConfig, [path]))),
    )


@pytest.mark.parametrize("long", BUDGETS)
@pytest.mark.parametrize("name", NAMES)
def test_a_value_or_one_line_comes_of_any_input(name: str, long: bool, tmp_path: Path) -> None:
    target = dict(targets(tmp_path))[name]
    fuzz(target.check(tmp_path), target.strategy, target.known, long)
