"""What a checkpoint file is, its bytes tell; wrappers' names come off; torch keeps its advice."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from egogen.errors import UserError
from egogen.features.weight_files import SHARDED
from ldm.checkpoints.safe_reading import read
from ldm.checkpoints.single_file import SingleFile
from ldm.checkpoints.source import load_parts, open_source
from ldm.checkpoints.writing import published_state
from ldm.networks.architecture import build
from ldm.pipeline import LegoPipeline
from tests.ldm.toy_run import SHAPE

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def state() -> State:
    torch.manual_seed(0)
    return {name: value.clone() for name, value in published_state(build(SHAPE), SHAPE).items()}


def legacy(content: object, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors", ".SAFETENSORS", ".bin", ".pt", ""])
@pytest.mark.parametrize("save", [save_file, torch.save, legacy])
def test_the_bytes_decide(state: State, tmp_path: Path, save: Callable[..., None], suffix: str) -> None:
    path = tmp_path / f"model{suffix}"
    save(state, path)
    found = read(path)["state_dict"]
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], value) for name, value in state.items())


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda name: f"module.{name}",
        lambda name: f"_orig_mod.{name}",
        lambda name: f"module._orig_mod.{name}",
        lambda name: f"model.{name}",
        lambda name: f"_forward_module.model.{name}",
        lambda name: name.replace("model.diffusion_model.", "model.diffusion_model._orig_mod."),
        lambda name: name.replace("first_stage_model.", "first_stage_model.module."),
    ],
)
@pytest.mark.parametrize("holder", ["state_dict", "module", "model_state_dict", None])
def test_wrappers_names_come_off(
    state: State, tmp_path: Path, wrapped: Callable[[str], str], holder: str | None
) -> None:
    given = {wrapped(name): value for name, value in state.items()}
    torch.save({holder: given, "epoch": 3} if holder else given, tmp_path / "x.ckpt")
    found = SingleFile(tmp_path / "x.ckpt")
    assert found.state.keys() == state.keys()
    stated = {"unet": {"heads": 8, "groups": 8}, "vae": {"groups": 8}, "text": {"heads": 2}}
    if holder == "state_dict":
        load_parts(found, stated)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"state_dict": {"a": 3}}, "expected tensors by name, .*; 'a' is none"),
        ({"state_dict": 3}, "state_dict is 3, expected tensors by name"),
        ({"epoch": 3}, "'epoch' is none"),
        ([1], "found list"),
    ],
)
def test_what_holds_no_tensors_says_so(tmp_path: Path, content: Any, message: str) -> None:
    torch.save(content, tmp_path / "x.ckpt")
    with pytest.raises(UserError, match=message):
        SingleFile(tmp_path / "x.ckpt")


@pytest.mark.parametrize("mark", ["v_pred", "ztsnr"])
def test_a_file_that_says_that_it_predicts_velocities(state: State, tmp_path: Path, mark: str) -> None:
    """Its mark is an empty tensor: no sign of ZeRO-3's shards."""
    torch.save({"state_dict": {**state, mark: torch.empty(0)}}, tmp_path / "x.ckpt")
    with pytest.raises(UserError, match=rf"its '{mark}' says that it predicts velocities .*; expected"):
        SingleFile(tmp_path / "x.ckpt")


def test_weights_that_zero_3_left_in_shards(state: State, tmp_path: Path) -> None:
    torch.save({"state_dict": {name: torch.empty(0) for name in state}}, tmp_path / "x.ckpt")
    (tmp_path / "zero_to_fp32.py").touch()
    for path in (tmp_path / "x.ckpt", tmp_path):
        with pytest.raises(UserError, match=rf"{re.escape(SHARDED)}, and give what that makes$"):
            open_source(path)


class Payload:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.mkdir, ("made",)


@pytest.mark.parametrize("save", [torch.save, legacy])
@pytest.mark.parametrize("name", ["x.ckpt", "x.safetensors"])
def test_torch_s_advice_is_not_passed_on(tmp_path: Path, save: Callable[..., None], name: str) -> None:
    save({"state_dict": {}, "more": Payload()}, tmp_path / name)
    with pytest.raises(
        UserError, match=r"refused, it holds more than tensors and plain data \(it names .*mkdir\)"
    ):
        read(tmp_path / name)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a readable checkpoint, cut off perhaps"),
        (b"<html>not found</html>", "a web page or a server's answer, not the file; download it again"),
        (b"\n<?xml version='1.0'?><Error>AccessDenied</Error>", "a web page or a server's answer"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0",
            "a pointer of Git LFS, .* git lfs pull",
        ),
        (b"\x80\x02garbage", "x.ckpt: "),
        (b"PK\x03\x04garbage", "not a readable checkpoint"),
        (b"\xff\0\0\0\0\0\0\0{garbage", "not a readable checkpoint"),
        (b"\x10\0\0\0\0\0\0\0{garbage: 3}    ", "not a readable checkpoint"),
    ],
)
def test_other_bytes_are_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.ckpt").write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        read(tmp_path / "x.ckpt")
    assert "weights_only" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_text_encoder_that_runs_code_is_one_line(tmp_path: Path) -> None:
    LegoPipeline.from_parts(build(SHAPE)).save_pretrained(tmp_path)
    for file in (tmp_path / "text_encoder").glob("*.safetensors"):
        file.unlink()
    torch.save({"a": Payload()}, tmp_path / "text_encoder" / "pytorch_model.bin")
    with pytest.raises(UserError, match="text_encoder: cannot be loaded") as caught:
        open_source(tmp_path)
    assert "weights_only" not in str(caught.value)
    assert not Path("made").exists()


@pytest.mark.parametrize("kind", [torch.int8, torch.complex64])
def test_codes_of_quantised_weights_are_not_taken_for_weights(
    state: State, tmp_path: Path, kind: torch.dtype
) -> None:
    name = "model.diffusion_model.input_blocks.0.0.weight"
    save_file({**state, name: state[name].to(kind)}, tmp_path / "x.safetensors")
    stated = {"unet": {"heads": 8, "groups": 8}, "vae": {"groups": 8}, "text": {"heads": 2}}
    with pytest.raises(UserError, match=rf"{name}' holds {kind}, expected floating-point numbers; a quant"):
        load_parts(SingleFile(tmp_path / "x.safetensors"), stated)


def test_groups_that_nobody_states(state: State, tmp_path: Path) -> None:
    save_file(state, tmp_path / "x.ckpt")
    with pytest.raises(UserError, match=r"x\.ckpt: .* multiples of .* states model\.architecture\.\w+\."):
        SingleFile(tmp_path / "x.ckpt").sizes()


def test_sizes_stay_as_they_are(state: State, tmp_path: Path) -> None:
    save_file(state, tmp_path / "x.ckpt")
    wide = replace(SHAPE, unet=replace(SHAPE.unet, heads=4))
    assert SingleFile(tmp_path / "x.ckpt").sizes(wide) == wide


def test_a_length_that_begins_as_a_pickle_does(tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    for length in range(0, 512, 8):  # of the header, whose length is what the file begins with
        save_file({"a": torch.ones(2)}, path, metadata={"x": "y" * length})
        if path.read_bytes()[:1] == b"\x80":
            break
    else:
        pytest.fail("no header was as long as that")
    assert read(path)["state_dict"]["a"].tolist() == [1.0, 1.0]
