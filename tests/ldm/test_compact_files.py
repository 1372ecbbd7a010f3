"""Compact files: 16 bits, rows that are used alone, parts beside; read as the whole file is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from egogen.errors import UserError
from ldm.checkpoints.published_names import published_names
from ldm.checkpoints.safe_reading import read
from ldm.checkpoints.source import load_parts
from ldm.checkpoints.stated_sizes import guidance_of
from ldm.checkpoints.writing import published_state, write, write_compact
from ldm.networks.architecture import TEXT, UNET, VAE, Parts, build
from ldm.networks.text import make_tokenizer, tokenize
from ldm.pipeline import LegoPipeline
from tests.ldm.toy_run import SHAPE

TABLE = f"{TEXT}embeddings.token_embedding.weight"
USED = torch.tensor([0, 7, SHAPE.text.vocab - 1])


@pytest.fixture(scope="module")
def parts() -> Parts:
    torch.manual_seed(0)
    made = build(SHAPE)
    table = made.text_encoder.get_input_embeddings().weight
    with torch.no_grad():  # the toy vocabulary: all other words are never read
        table[[row for row in range(len(table)) if row not in USED.tolist()]] = 0
    return made


def pick(parts: Parts, *prefixes: str) -> dict[str, Tensor]:
    wanted = set(published_names(parts, SHAPE).values())
    state = published_state(parts, SHAPE)
    return {name: value for name, value in state.items() if name in wanted and name.startswith(prefixes)}


def split(parts: Parts, folder: Path) -> Path:
    """A UNet with its conditioner, and the rest in a file beside."""
    shared, own = folder / "frozen.safetensors", folder / "lego.safetensors"
    write_compact(shared, pick(parts, VAE, TEXT), SHAPE, 32, {TABLE: USED})
    write_compact(own, pick(parts, UNET, "projection_", "self_attn_mix."), SHAPE, 32, beside=[shared])
    return own


def test_a_compact_file_gives_the_networks_of_the_whole_one(parts: Parts, tmp_path: Path) -> None:
    write(tmp_path / "whole.safetensors", published_state(parts, SHAPE), SHAPE, 32)
    whole, compact = load_parts(tmp_path / "whole.safetensors"), load_parts(split(parts, tmp_path))
    for expected, found in zip(whole, compact, strict=True):
        assert expected is not None
        assert found is not None
        for name, value in expected.state_dict().items():
            # Witness: rounding to 16 bits is all that is lost.
            torch.testing.assert_close(found.state_dict()[name], value.half().to(value.dtype), rtol=0, atol=0)
    size = sum(
        path.stat().st_size for path in (tmp_path / "lego.safetensors", tmp_path / "frozen.safetensors")
    )
    rows = SHAPE.text.width * 4 * (SHAPE.text.vocab - len(USED))
    assert size < 0.55 * ((tmp_path / "whole.safetensors").stat().st_size - rows)


def test_whole_safetensors_are_read_as_before(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "plain.safetensors")
    assert read(tmp_path / "plain.safetensors") == {"state_dict": {"a": pytest.approx(torch.ones(2))}}


def test_a_file_beside_must_be_there_and_the_same(parts: Parts, tmp_path: Path) -> None:
    own = split(parts, tmp_path)
    shared = tmp_path / "frozen.safetensors"
    content = bytearray(shared.read_bytes())
    content[-1] ^= 1
    shared.write_bytes(content)
    with pytest.raises(
        UserError, match=r"frozen.safetensors: is not the file that lego.safetensors was written"
    ):
        read(own)
    shared.unlink()
    with pytest.raises(UserError, match=r"frozen.safetensors: missing; lego.safetensors keeps a part of its"):
        read(own)


def test_a_link_to_a_compact_file_is_enough(parts: Parts, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    link = tmp_path / "a.safetensors"
    link.symlink_to(split(parts, tmp_path / "real"))
    assert (
        read(link)["state_dict"].keys() == read(tmp_path / "real" / "lego.safetensors")["state_dict"].keys()
    )


@pytest.mark.parametrize("name", ["../frozen.safetensors", "lego.safetensors", ""])
def test_only_another_file_of_the_folder_lies_beside(name: str, tmp_path: Path) -> None:
    path = tmp_path / "lego.safetensors"
    save_file({"a": torch.ones(2)}, path, metadata={"beside": json.dumps({name: "0" * 64})})
    with pytest.raises(UserError, match=r"expected a file in the same folder|missing"):
        read(path)


@pytest.mark.parametrize("rows", [torch.tensor([0, 9]), torch.tensor([0]), torch.tensor([-1, 1])])
def test_rows_that_the_table_does_not_have_are_refused(rows: Tensor, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file(
        {"a": torch.ones(2, 3), "a.rows": rows.to(torch.int32)}, path, metadata={"rows": json.dumps({"a": 9})}
    )
    with pytest.raises(UserError, match="the rows of 'a' are not those that its header states"):
        read(path)


def test_a_header_that_is_no_json_is_named(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "x.safetensors", metadata={"rows": "{"})
    with pytest.raises(UserError, match="its header's 'rows' is not JSON"):
        read(tmp_path / "x.safetensors")


def test_values_too_large_for_16_bits_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="tensor 'a' holds values that 16 bits cannot"):
        write_compact(tmp_path / "x.safetensors", {"a": torch.tensor([7e4])}, SHAPE, 32)
    assert not (tmp_path / "x.safetensors").exists()


def test_the_header_states_sizes_and_resolution(parts: Parts, tmp_path: Path) -> None:
    with safe_open(split(parts, tmp_path), "pt") as file:
        assert json.loads(file.metadata()["resolution"]) == 32
    assert read(tmp_path / "lego.safetensors")["architecture"]["text"]["vocab"] == SHAPE.text.vocab


def test_words_that_are_not_kept_are_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    whole = build(SHAPE)
    kept = tokenize(make_tokenizer(), ["open the drawer"]).unique()
    write_compact(tmp_path / "frozen.safetensors", pick(whole, VAE, TEXT), SHAPE, 32, {TABLE: kept})
    own = tmp_path / "lego.safetensors"
    beside = [tmp_path / "frozen.safetensors"]
    write_compact(own, pick(whole, UNET), SHAPE, 32, beside=beside, guidance=[1.5, 1.0])
    assert guidance_of(load_parts(own)) == [1.5, 1.0]
    pipeline = LegoPipeline.from_single_file(own)
    pipeline.encode_context(["open the drawer", ""])
    assert not caplog.text
    pipeline.encode_context(["open the red drawer"])
    assert "the checkpoint does not know 'red', and reads nothing there" in caplog.text
    caplog.clear()
    pipeline.encode_context(["open the red drawer"])
    assert not caplog.text
