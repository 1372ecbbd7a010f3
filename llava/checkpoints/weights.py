"""Checkpoints on disk: the published LLaVA folders and Hugging Face ones, read and written by weight name.

Published names (spec: stage1-vllm-protocol, section 1) and the several Hugging Face spellings become one set
of names, those of `llava.model.Llava`; nothing here builds a model.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from egogen.errors import UserError, reason
from egogen.features.weight_files import BROKEN, SAFETENSORS, SHARDED, ZIP, form_of
from egogen.files import atomic_open, read_json, write_json
from egogen.pickled_texts import check_texts

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
HINT = "bash scripts/download_weights.sh fetches the published start, llava.train makes others"
SHARD_BYTES = 10 * 10**9
WRAPPERS = ("module.", "_orig_mod.", "base_model.")
GATHER = f"{SHARDED}, or train with stage3_gather_16bit_weights_on_model_save"
Read = TypeVar("Read")
Rules = Sequence[tuple[re.Pattern[str], str]]

PROJECTOR = "model.multi_modal_projector."
VISION = "model.vision_tower."
TEXT = "model.language_model."

# First match wins. Left: how published folders and Hugging Face versions spell a prefix; right: our name.
RENAMES: Rules = [
    (re.compile(pattern), name)
    for pattern, name in (
        (r"^model\.vision_tower\.vision_tower\.(vision_model\.)?", VISION),
        (r"^(model\.)?vision_tower\.(vision_model\.)?", VISION),
        (r"^model\.mm_projector\.0\.", f"{PROJECTOR}linear_1."),
        (r"^model\.mm_projector\.2\.", f"{PROJECTOR}linear_2."),
        (r"^model\.mm_projector\.", PROJECTOR),
        (r"^(model\.)?multi_modal_projector\.", PROJECTOR),
        (r"^language_model\.lm_head\.", "lm_head."),
        (r"^(model\.)?language_model\.(model\.)?", TEXT),
        (r"^model\.(?=embed_tokens\.|layers\.|norm\.)", TEXT),
    )
]
# Buffers that old versions saved and that are recomputed.
LEFTOVERS = re.compile(r"\.(rotary_emb\.inv_freq|embeddings\.position_ids)$")


class Names(NamedTuple):
    """How a folder names its weights: what becomes our name, and what is dropped."""

    rules: Rules
    leftovers: re.Pattern[str]


OF_LLAVA = Names(RENAMES, LEFTOVERS)
# A CLIP folder holds the vision tower alone, or the whole CLIP.
OF_CLIP = Names(
    [(re.compile(r"^(vision_model\.)?(?=embeddings\.|pre_layrnorm\.|encoder\.|post_layernorm\.)"), VISION)],
    re.compile(
        r"^(text_model\.|text_projection\.|visual_projection\.|logit_scale$)|embeddings\.position_ids$"
    ),
)

PUBLISHED = (
    (f"{PROJECTOR}linear_1.", "model.mm_projector.0."),
    (f"{PROJECTOR}linear_2.", "model.mm_projector.2."),
    (PROJECTOR, "model.mm_projector."),
    (VISION, "model.vision_tower.vision_tower.vision_model."),
    (TEXT, "model."),
)


def our_name(name: str, rules: Rules = RENAMES) -> str:
    """The name of a weight in `llava.model.Llava`; an unknown name is returned unchanged."""
    for pattern, prefix in rules:
        if pattern.match(name):
            return pattern.sub(prefix, name, count=1)
    return name


def published_name(name: str) -> str:
    """The name of one of our weights in a published folder."""
    for ours, theirs in PUBLISHED:
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    return name


def weight_files(folder: Path) -> list[Path]:
    """The files that hold a folder's weights, safetensors before `.bin`, shards in the order of the index.

    Raises:
        UserError: there are none, or the index names one that is missing.
    """
    for name in WEIGHTS:
        index, single = folder / f"{name}.index.json", folder / name
        if index.exists():
            files = dict.fromkeys(read_weight_map(index).values())
            missing = [file for file in files if not (folder / file).is_file()]
            if missing:
                raise UserError(
                    f"{folder / missing[0]}: missing, as are {len(missing)} of {len(files)} files that "
                    f"{index.name} lists; copy or download it again"
                )
            return [folder / file for file in files]
        if single.exists():
            return [single]
    if not folder.is_dir():
        raise UserError(f"{folder}: no such checkpoint folder; {HINT}")
    raise UserError(f"{folder}: no weights here; expected {' or '.join(WEIGHTS)}, or their shards; {HINT}")


def has_weights(folder: Path) -> bool:
    """Whether a folder holds the weights of a whole model, or the index of their shards."""
    return any((folder / f"{name}{index}").exists() for name in WEIGHTS for index in ("", ".index.json"))


def read_weight_map(index: Path) -> dict[str, str]:
    """Reads `weight_map` (weight name -> file name beside the index)."""
    raw = read_json(index)
    found = raw.get("weight_map") if isinstance(raw, dict) else None
    if (
        not isinstance(found, dict)
        or not found
        or not all(isinstance(name, str) and name and name == Path(name).name for name in found.values())
    ):
        raise UserError(
            f"{index}: expected an object 'weight_map' of weight name -> file name in this folder"
        )
    return found


def read_file(path: Path) -> dict[str, Tensor]:
    """Reads one weight file without running code from it; its first bytes, not its name, say of which kind.

    Raises:
        UserError: truncated, not a weight file, or holding something that is not a tensor.
    """
    values = guarded(path, load_file if is_safetensors(path) else load_pickle)
    if not isinstance(values, dict) or not all(isinstance(value, Tensor) for value in values.values()):
        held = examples(map(str, values)) if isinstance(values, dict) else type(values).__name__
        raise UserError(
            f"{path}: found {held}, expected tensors by name, as torch.save(model.state_dict()) makes"
        )
    return values


def read_file_shapes(path: Path) -> dict[str, Tensor]:
    """The tensors of a weight file without their values, on the meta device."""
    if not is_safetensors(path):
        return {name: tensor.to("meta") for name, tensor in read_file(path).items()}

    def shapes(path: Path) -> dict[str, Tensor]:
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - no dict
            return {
                name: torch.empty(part.get_shape(), dtype=type_of(part.get_dtype()), device="meta")
                for name, part in slices.items()
            }

    return guarded(path, shapes)


def type_of(spelled: str) -> torch.dtype:
    """A type that is floating-point where that of a safetensors file is."""
    return torch.float32 if spelled.startswith(("F", "BF")) else torch.int8


def is_safetensors(path: Path) -> bool:
    """Whether a file begins as safetensors do: with the length of a JSON object, and that."""
    return form_of(path) == SAFETENSORS


def guarded(path: Path, read: Callable[[Path], Read]) -> Read:
    """Reads a weight file; what the libraries raise becomes one line."""
    if not form_of(path) and not path.stat().st_size:
        raise UserError(f"{path}: empty; copy it again")
    try:
        return read(path)
    except (UserError, MemoryError):
        raise
    except BROKEN as error:
        raise UserError(
            f"{path}: not a readable weight file ({told(error)}); copy it again, or take it as safetensors"
        ) from None


def told(error: Exception) -> str:
    """What a library says of a file that it does not read; not torch's advice to trust it."""
    if isinstance(error, pickle.UnpicklingError):
        named = re.search(r"GLOBAL (\S+)", str(error))
        return f"refused: it names {named[1]}" if named else "it is cut off, or holds more than tensors"
    return f"{reason(error)[:160]}; is it cut off?"


def load_pickle(path: Path) -> object:
    """`torch.load` with the allow-list; memory-mapped unless the file is in the format before torch 1.6."""
    check_texts(path)
    if path.suffix == ".safetensors":  # torch itself would go by the name
        with path.open("rb") as file:
            return torch.load(file, map_location="cpu", weights_only=True)
    return torch.load(path, map_location="cpu", weights_only=True, mmap=form_of(path) == ZIP)


def read_weights(
    folder: Path, names: Names = OF_LLAVA, read: Callable[[Path], dict[str, Tensor]] = read_file
) -> Iterator[tuple[str, Tensor]]:
    """Yields (our name, tensor) of every weight in a folder, file by file, leftovers dropped.

    Raises:
        UserError: a file is missing or unreadable.
    """
    for file in weight_files(folder):
        for name, tensor in read(file).items():
            if not names.leftovers.search(name):
                check_floating(file, name, tensor)
                yield our_name(name, names.rules), tensor


def check_floating(path: Path, name: str, tensor: Tensor) -> None:
    """Refuses whole numbers, which are codes of quantised weights, and complex ones, half of which is lost.

    Raises:
        UserError: names the tensor.
    """
    if not tensor.is_floating_point():
        raise UserError(
            f"{path}: {name} holds {tensor.dtype}, expected floating-point numbers; a quantised or packed "
            "checkpoint is not read: take one of 16 or 32 bits"
        )


def read_shapes(folder: Path, names: Names = OF_LLAVA) -> dict[str, Tensor]:
    """The weights of a folder by our names, without their values, on the meta device.

    Raises:
        UserError: a file is missing or unreadable, or two names mean the same weight.
    """
    found: dict[str, Tensor] = {}
    for name, tensor in read_weights(folder, names, read_file_shapes):
        if name in found:
            raise UserError(f"{folder}: the weight {name!r} occurs twice in this checkpoint")
        found[name] = tensor
    return found


def check_weights(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], folder: Path) -> None:
    """Checks names and shapes.

    Raises:
        UserError: missing, unexpected or wrongly shaped weights; names the first few.
    """
    problems = {
        "are missing": [name for name in expected if name not in found],
        "are unexpected": [name for name in found if name not in expected],
    }
    for problem, names in problems.items():
        if names:
            wrapped = any(name.startswith(WRAPPERS) for name in found)
            hint = "; a wrapper's names: save what is inside it, such as model.module" if wrapped else ""
            raise UserError(f"{folder}: {len(names)} weights {problem}: {examples(names, 4)}{hint}")
    for name, tensor in found.items():
        if tensor.shape != expected[name].shape:
            if not tensor.numel():
                raise UserError(f"{folder}: {name} has shape {tuple(tensor.shape)}, it is empty; {GATHER}")
            raise UserError(
                f"{folder}: {name} has shape {tuple(tensor.shape)}, config.json says "
                f"{tuple(expected[name].shape)}; are weights and config.json from the same model?"
            )


def examples(names: Iterable[str], count: int = 3) -> str:
    """The first few of some names, for a message."""
    return ", ".join(sorted(names)[:count])


def write_published_weights(
    folder: Path, weights: Iterable[tuple[str, Tensor]], limit: int = SHARD_BYTES
) -> None:
    """Writes our weights under published names as `pytorch_model.bin`, sharded above `limit` bytes."""
    tensors = {published_name(name): tensor.detach().cpu().contiguous() for name, tensor in weights}
    pattern = "pytorch_model{suffix}.bin"
    split = split_torch_state_dict_into_shards(tensors, filename_pattern=pattern, max_shard_size=limit)
    for file, names in split.filename_to_tensors.items():
        save_pickle(folder / file, {name: tensors[name] for name in names})
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        write_json(folder / "pytorch_model.bin.index.json", index)


def save_pickle(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes tensors atomically in torch's format; views are written as what they show."""
    with atomic_open(path) as file:
        torch.save({name: tensor.clone() for name, tensor in tensors.items()}, file)
