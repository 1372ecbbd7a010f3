import gzip
import io
import json
import re
import resource
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import CLIPVisionConfig, LlamaConfig, LlamaTokenizer

from egogen.conversations import read_conversations
from egogen.errors import UserError
from egogen.features.weight_files import SHARDED
from egogen.frames import open_frames
from llava.checkpoints.clip_tower import find_clip
from llava.checkpoints.config_json import from_published, llava_config, text_settings, vision_settings
from llava.checkpoints.published_folder import write_published
from llava.checkpoints.tokenizer import load_tokenizer, save_tokenizer
from llava.checkpoints.weights import LEFTOVERS, our_name, published_name, write_published_weights
from llava.convert import main
from llava.model import Llava, load, read_checkpoint
from tests.forked import Forked
from tests.fuzzing import misnamed
from tests.llava.conftest import ORACLE, Loaded

BIG = json.loads(gzip.decompress((ORACLE / "manifest_13b.json.gz").read_bytes()))


def test_names_and_shapes_of_the_13b_model(tmp_path: Path) -> None:
    shapes = {name: tuple(shape) for name, shape in BIG["manifest"].items() if not LEFTOVERS.search(name)}
    assert {name: published_name(our_name(name)) for name in shapes} == {name: name for name in shapes}
    config = from_published(BIG["config"], CLIPVisionConfig(**BIG["vision_config"]), tmp_path)
    with torch.device("meta"):
        model = Llava(config)
    assert {
        published_name(our_name(name)): tuple(value.shape) for name, value in model.state_dict().items()
    } == shapes


def test_conversion_is_lossless_both_ways(tiny: Path, tmp_path: Path) -> None:
    main(["llava2hf", str(tiny), str(tmp_path / "hf")])
    main(["hf2llava", str(tmp_path / "hf"), str(tmp_path / "back")])
    first = torch.load(tiny / "pytorch_model.bin", weights_only=True)
    last = torch.load(tmp_path / "back" / "pytorch_model.bin", weights_only=True)
    kept = {name: value for name, value in first.items() if not LEFTOVERS.search(name)}
    assert kept.keys() == last.keys()
    assert all(torch.equal(value, last[name]) for name, value in kept.items())
    assert (tmp_path / "back" / "tokenizer.model").read_bytes() == (tiny / "tokenizer.model").read_bytes()
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (tiny, tmp_path / "back"))
    unlike = {key for key in before if before[key] != after.get(key)} - {
        "_name_or_path",
        "transformers_version",
    }
    assert not unlike
    assert load(tmp_path / "back")[0].patches == 16


def test_conversion_refuses_the_wrong_direction_and_existing_targets(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="published format already"):
        main(["hf2llava", str(tiny), str(tmp_path / "x")])
    with pytest.raises(UserError, match="exists"):
        main(["llava2hf", str(tiny), str(tmp_path)])


def test_large_checkpoints_are_written_in_shards(loaded: Loaded, own_tiny: Path) -> None:
    weights = [(our_name(name), value) for name, value in loaded[0].state_dict().items()]
    (own_tiny / "pytorch_model.bin").unlink()
    write_published_weights(own_tiny, weights, limit=300_000)
    assert len(list(own_tiny.glob("pytorch_model-*.bin"))) > 2
    made = load(own_tiny)[0].state_dict()
    assert all(torch.equal(value, made[name]) for name, value in loaded[0].state_dict().items())


def test_published_settings_survive(tiny: Path, loaded: Loaded) -> None:
    raw = json.loads((tiny / "config.json").read_text())
    config = from_published(raw, vision_settings(loaded[0].config), tiny)
    assert text_settings(config).hidden_size == 64
    assert config.mm_vision_tower == "openai/clip-tiny-v"


def test_empty_weights_of_zero3_are_told_with_what_to_do(own_tiny: Path) -> None:
    path = own_tiny / "pytorch_model.bin"
    held = torch.load(path, weights_only=True)
    torch.save({name: torch.empty(0) for name in held}, path)
    told = rf"has shape \(0,\), it is empty; {re.escape(SHARDED)}, or train with stage3_gather_16bit_"
    with pytest.raises(UserError, match=told):
        read_checkpoint(own_tiny)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
def test_codes_of_quantised_weights_are_not_taken_for_weights(name: str, own_tiny: Path) -> None:
    held = torch.load(own_tiny / "pytorch_model.bin", weights_only=True)
    (own_tiny / "pytorch_model.bin").unlink()
    held["lm_head.weight"] = held["lm_head.weight"].to(torch.int8)
    write = torch.save if name.endswith(".bin") else save_file
    write(held, own_tiny / name)
    with pytest.raises(UserError, match=rf"{name}: lm_head\.weight holds torch\.int8, expected"):
        read_checkpoint(own_tiny)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "base_model.model."])
def test_a_wrappers_names_are_told(prefix: str, own_tiny: Path) -> None:
    path = own_tiny / "pytorch_model.bin"
    held = torch.load(path, weights_only=True)
    torch.save({f"{prefix}{name}": value for name, value in held.items()}, path)
    with pytest.raises(UserError, match=r"weights are missing: .*a wrapper's names"):
        read_checkpoint(own_tiny)


@pytest.mark.parametrize("name", ["embeddings.position_ids", "vision_model.embeddings.position_ids"])
def test_buffers_that_old_versions_saved_are_dropped(name: str, own_tiny: Path) -> None:
    path = own_tiny / "pytorch_model.bin"
    held = torch.load(path, weights_only=True)
    torch.save(held | {f"model.vision_tower.vision_tower.{name}": torch.arange(17)[None]}, path)
    assert read_checkpoint(own_tiny)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("mm_vision_select_layer", -1),
        ("mm_vision_select_feature", "cls_patch"),
        ("mm_use_im_start_end", True),
        ("mm_use_im_patch_token", True),
        ("image_aspect_ratio", "pad"),
        ("image_aspect_ratio", "anyres"),
        ("mm_projector_type", "identity"),
    ],
)
def test_settings_of_other_models_are_refused(field: str, value: object, tiny: Path, loaded: Loaded) -> None:
    raw = json.loads((tiny / "config.json").read_text())
    with pytest.raises(UserError, match=f"{field} is {value!r}"):
        from_published(raw | {field: value}, vision_settings(loaded[0].config), tiny)


def test_a_clip_inside_the_checkpoint_comes_before_one_beside_it(own_tiny: Path) -> None:
    name = "openai/clip-tiny-v"
    assert find_clip(name, own_tiny) == own_tiny.parent / name
    (own_tiny.parent / "elsewhere").mkdir()
    link = own_tiny.parent / "elsewhere" / "model"
    link.symlink_to(own_tiny)
    assert find_clip(name, link) == own_tiny.parent / name
    shutil.copytree(own_tiny.parent / name, own_tiny / name)
    assert find_clip(name, own_tiny) == own_tiny / name


def test_a_files_bytes_say_of_which_kind_it_is(own_tiny: Path, loaded: Loaded) -> None:
    path = own_tiny / "pytorch_model.bin"
    held = torch.load(path, weights_only=True)
    save_file(held, path)  # safetensors, named .bin
    made = load(own_tiny)[0].state_dict()
    assert all(value.equal(made[name]) for name, value in loaded[0].state_dict().items())
    path.unlink()
    torch.save(held, own_tiny / "model.safetensors")
    assert load(own_tiny)[0].state_dict().keys() == made.keys()


class Odd:
    """What a weight file may not hold."""


def old_file() -> bytes:
    """In the format of before torch 1.6."""
    file = io.BytesIO()
    torch.save({"a": torch.ones(1)}, file, _use_new_zipfile_serialization=False)
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty; copy it again"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "pointer of Git LFS.*git lfs pull"),
        (b"<!DOCTYPE html><html>", "a web page or a server's answer, not the file; download it again"),
        (b"PK\x03\x04 cut", "cut off"),
        (b"\x80\x02}q\x00", "not a readable weight file"),
        (misnamed(old_file()), "not a readable weight file .*storage key"),
        (
            old_file().replace(b"OrderedDict\n", b"9" * 300_000 + b"\n", 1),
            "refused, it holds a text",
        ),
        ({"a": Odd()}, "refused: it names .*Odd.*or take it as safetensors"),
        ({"state_dict": {"a": torch.ones(1)}, "step": 1}, "found state_dict, step, expected tensors by name"),
        ([torch.ones(1)], "found list, expected tensors"),
    ],
    ids=range(10),
)
def test_what_is_no_weight_file_is_one_line(content: object, said: str, own_tiny: Path) -> None:
    path = own_tiny / "pytorch_model.bin"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(UserError, match=f"pytorch_model.bin: .*{said}") as told:
        read_checkpoint(own_tiny)
    assert "\n" not in str(told.value)
    assert "weights_only" not in str(told.value)


@pytest.mark.parametrize(
    ("weight_map", "said"),
    [
        ({}, "expected an object 'weight_map'"),
        ({"lm_head.weight": "../x.bin"}, "expected an object 'weight_map'"),
        (
            {"lm_head.weight": "x.bin", "b": "y.bin"},
            r"x.bin: missing, as are 2 of 2 files that .* lists; copy or",
        ),
    ],
)
def test_an_index_names_files_that_are_there(weight_map: dict[str, str], said: str, own_tiny: Path) -> None:
    (own_tiny / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(UserError, match=said):
        read_checkpoint(own_tiny)


def test_missing_parts_are_named_with_what_makes_them(own_tiny: Path) -> None:
    (own_tiny / "pytorch_model.bin").unlink()
    for breaking in (lambda: None, (own_tiny / "config.json").unlink, lambda: shutil.rmtree(own_tiny)):
        breaking()
        with pytest.raises(UserError, match=r"bash scripts/download_weights.sh"):
            read_checkpoint(own_tiny)
    with pytest.raises(UserError, match=r"llava.curate"):
        read_conversations(own_tiny / "records.json")
    with pytest.raises(UserError, match=r"egogen.prepare"):
        open_frames(own_tiny)


def test_a_tokenizer_of_another_model_is_refused(own_tiny: Path) -> None:
    config = json.loads((own_tiny / "config.json").read_text())
    with pytest.raises(UserError, match=r"the tokenizer has \d+ tokens, config.json says 7"):
        load_tokenizer(own_tiny, 7)
    tokenizer = load_tokenizer(own_tiny, config["vocab_size"])
    shutil.rmtree(own_tiny)
    vocabulary = {"<s>": 0, "</s>": 1, "<unk>": 2, "a": 3}
    LlamaTokenizer(vocab=vocabulary, merges=[]).save_pretrained(own_tiny)
    with pytest.raises(UserError, match=r"the tokenizer has .*'<s>': 0.*expected .*'<s>': 1"):
        load_tokenizer(own_tiny)
    assert tokenizer


@pytest.mark.parametrize("kind", ["bert", "siglip", None])
def test_a_tower_of_another_kind_is_refused(kind: str | None, own_tiny: Path) -> None:
    path = own_tiny.parent / "openai/clip-tiny-v/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_type": kind}))
    with pytest.raises(UserError, match=f"model_type is {kind!r}, expected 'clip'"):
        read_checkpoint(own_tiny)


def measure(small: Path, large: Path) -> None:
    """Prints by how many bytes this process grew while it loaded a model, and the model's size."""
    torch.set_num_threads(1)
    load(small)  # libraries are in memory then
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    model = load(large)[0]
    size = sum(value.numel() * value.element_size() for value in model.state_dict().values())
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    sys.stdout.write(f"{grown} {size}\n")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bin", "safetensors"])
def test_a_sharded_folder_is_loaded_file_by_file(
    tiny: Path, loaded: Loaded, tmp_path: Path, kind: str
) -> None:
    text = text_settings(loaded[0].config)
    large = LlamaConfig(**{**text.to_dict(), "hidden_size": 512, "intermediate_size": 2048})
    large.num_hidden_layers, large.num_attention_heads, large.num_key_value_heads = 10, 4, 4
    large.head_dim = 128
    model = Llava(llava_config(large, vision_settings(loaded[0].config), "openai/clip-tiny-v"))
    shard = 10_000_000
    folder = tmp_path / "large"
    if kind == "bin":
        write_published(model, loaded[1], folder, "openai/clip-tiny-v")
        (folder / "pytorch_model.bin").unlink()
        weights = ((our_name(name), tensor) for name, tensor in model.state_dict().items())
        write_published_weights(folder, weights, shard)
        shutil.copytree(tiny.parent / "openai", tmp_path / "openai")
    else:
        model.save_pretrained(folder, max_shard_size=shard)
        save_tokenizer(loaded[1], folder)
        loaded[2].save_pretrained(folder)
    assert len(list(folder.glob(f"*.{kind}"))) > 10
    process = Forked(measure, tiny, folder, log=tmp_path / "log")
    assert process.wait() == 0, process.printed
    grown, size = map(int, process.printed.split()[-2:])
    # The model and a file or two; twice the model would be 340 MB.
    assert grown < size + 4 * shard
