"""A folder of adapters (LoRA): read strictly, and added to the weights of its base while those are read.

Every tensor of the folder must belong to a weight of the base; what is not understood is refused.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from egogen.adapter_settings import settings_fault
from egogen.annotations import JsonObject, check_object
from egogen.errors import UserError
from egogen.files import read_json
from llava.checkpoints.weights import (
    GATHER,
    PROJECTOR,
    TEXT,
    check_floating,
    examples,
    has_weights,
    our_name,
    read_file,
)

log = logging.getLogger(__name__)

ADAPTER = "adapter_config.json"
FILES = ("adapter_model.safetensors", "adapter_model.bin")
BESIDE = "non_lora_trainables.bin"  # what LLaVA's trainer trains whole: the projector

PEFT = re.compile(r"^base_model\.model\.")
FACTOR = re.compile(r"^(?P<stem>.+)\.lora_(?P<which>[AB])(\.default)?\.weight$")
WHOLE = re.compile(r"\.modules_to_save(\.default)?(?=\.)")  # a module that is trained as it is
LAYER = re.compile(rf"^{re.escape(TEXT)}layers\.(\d+)\.(.+)$")

# Adapters act as W + B A alpha / r (Hu et al. 2021), with the root of r where the settings say use_rslora.
Halves = dict[str, dict[str, Tensor]]  # by a weight's name: "A" and "B"


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds adapters instead of a whole model."""
    return (folder / ADAPTER).is_file()


def whole_of(folder: Path) -> Path:
    """The whole checkpoint: the folder itself or, of adapters, the one that they belong to.

    Raises:
        UserError: the adapters do not name it, or it is not there or no whole checkpoint.
    """
    if not is_adapter(folder):
        return folder
    path = folder / ADAPTER
    if has_weights(folder):
        raise UserError(f"{folder}: holds adapters and a whole model; move {ADAPTER} or the model elsewhere")
    base = check_object(read_json(path), f"{path}", "settings of adapters").get("base_model_name_or_path")
    if not isinstance(base, str) or not Path(base).is_dir():
        raise UserError(
            f"{path}: base_model_name_or_path is {base!r}, which is no folder here; set it to "
            "the checkpoint that the adapters were trained on"
        )
    if is_adapter(Path(base)):
        raise UserError(
            f"{path}: base_model_name_or_path is {base!r}, which holds adapters itself; make it a whole "
            "checkpoint first, by python -m llava.convert, and name that"
        )
    return Path(base)


@dataclass(frozen=True)
class Adapters:
    """Adapters in memory, by our names of the weights that they change."""

    folder: Path
    scale: float
    factors: Mapping[str, tuple[Tensor, Tensor]]  # A [r, in] and B [out, r]
    whole: Mapping[str, Tensor]  # weights that take the base's place

    def apply(self, name: str, value: Tensor) -> Tensor:
        """One weight of the base with what the adapters add to it, or put in its place."""
        if name in self.whole:
            return self.whole[name]
        if name not in self.factors:
            return value
        a, b = self.factors[name]
        return value.float() + b.float() @ a.float() * self.scale

    def merged(self, weights: Iterator[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        """Yields the base's weights with the adapters in them, and says how many have changed.

        Raises:
            UserError: none has.
        """
        named, same = {*self.factors, *self.whole}, []
        for name, value in weights:
            made = self.apply(name, value)
            if name in named and made.equal(value.to(made.dtype)):
                same.append(name)
            yield name, made
        changed = len(named) - len(same)
        if not changed:
            raise UserError(
                f"{self.folder}: these adapters change none of {len(named)} weights; trained at all?"
            )
        if same:
            log.warning(
                "%s: adapters leave %d weights as they are: %s", self.folder, len(same), examples(same)
            )
        log.info("%s: adapters changed %d of %d weights", self.folder, changed, len(named))


def read_adapters(folder: Path, base: Mapping[str, Tensor]) -> Adapters:
    """Reads a folder of adapters and checks that they fit.

    Args:
        folder: with adapter_config.json, adapter_model.safetensors or .bin, and LLaVA's
            non_lora_trainables.bin, if it has one.
        base: the weights of the checkpoint that they belong to, by our names; values are not needed.

    Raises:
        UserError: a setting is not understood, or a tensor has no place in the base, is missing or misshapen.
    """
    path = adapter_file(folder)
    config = read_settings(folder / ADAPTER)
    factors, whole = sort_out(path, base)
    check_whole(path, config, factors, whole, base)
    for name, tensor in read_beside(folder / BESIDE, base).items():
        if name in whole:
            raise UserError(f"{folder / BESIDE}: {name!r} is in {path.name} as well; one of them must go")
        whole[name] = tensor
    pairs = {name: (pair["A"], pair["B"]) for name, pair in factors.items()}
    rank = config["r"] ** 0.5 if config.get("use_rslora") else config["r"]
    return Adapters(folder, config["lora_alpha"] / rank, pairs, whole)


def adapter_file(folder: Path) -> Path:
    """The file of a folder's adapters.

    Raises:
        UserError: there is none.
    """
    path = next((folder / name for name in FILES if (folder / name).is_file()), None)
    if path is None:
        raise UserError(f"{folder}: no adapters beside {ADAPTER}; expected {' or '.join(FILES)}")
    return path


def sort_out(path: Path, base: Mapping[str, Tensor]) -> tuple[Halves, dict[str, Tensor]]:
    """Reads a file of adapters.

    Returns:
        By our names of the weights: halves of adapters, and weights that are trained as they are.

    Raises:
        UserError: a tensor has no weight in the base, or two are for one, or there is none.
    """
    tensors = read_file(path)
    factors: Halves = {}
    whole: dict[str, Tensor] = {}
    strange = []
    for spelled, tensor in tensors.items():
        factor = FACTOR.match(spelled)
        name = plain_name(f"{factor['stem']}.weight" if factor else spelled)
        place, key = (factors.setdefault(name, {}), factor["which"]) if factor else (whole, name)
        if key in place:
            raise UserError(f"{path}: {spelled!r} and another tensor are for one weight, {name!r}")
        place[key] = tensor
        if name not in base:
            strange.append(spelled)
    if not tensors:
        raise UserError(f"{path}: holds no adapters; is it whole?")
    if strange:
        like = next((name for name in base if LAYER.match(name)), next(iter(base)))
        raise UserError(
            f"{path}: these adapters do not fit their base: {len(strange)} of {len(tensors)} tensors have no "
            f"weight there, such as {examples(strange)}; expected names such as "
            f"base_model.model.{like.removesuffix('.weight')}.lora_A.weight"
        )
    if both := factors.keys() & whole.keys():
        raise UserError(f"{path}: {examples(both)}: an adapter and a whole weight; expected one of them")
    return factors, whole


def plain_name(spelled: str) -> str:
    """Our name of the weight that peft's name of a tensor means."""
    return our_name(WHOLE.sub("", PEFT.sub("", spelled, count=1), count=1))


def read_settings(path: Path) -> JsonObject:
    """Reads adapter_config.json.

    Raises:
        UserError: it asks for more than plain adapters.
    """
    config = check_object(read_json(path), f"{path}", "settings of adapters")
    if fault := settings_fault(config):
        raise UserError(f"{path}: {fault}")
    for key in ("r", "lora_alpha"):
        value = config.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
            raise UserError(f"{path}: {key} is {value!r}, expected a number above 0")
    return config


def check_whole(
    path: Path,
    config: JsonObject,
    factors: Halves,
    whole: Mapping[str, Tensor],
    base: Mapping[str, Tensor],
) -> None:
    """Checks that no half is missing, that all modules that the settings name are there, and all shapes.

    Raises:
        UserError: it is not so; names the weight.
    """
    for name, pair in factors.items():
        rows, columns = base[name].shape[0], base[name].shape[-1]
        wanted = {"A": (config["r"], columns), "B": (rows, config["r"])}
        for which, shape in wanted.items():
            check_tensor(path, f"lora_{which} of {name}", pair.get(which), shape)
    for name, tensor in whole.items():
        check_tensor(path, name, tensor, tuple(base[name].shape))
    modules = [*named_modules(config, "target_modules"), *named_modules(config, "modules_to_save")]
    absent = [module for module in modules if holds(module, base) and not holds(module, (*factors, *whole))]
    if config.get("layers_to_transform") is None and not config.get("exclude_modules"):
        absent += gaps(factors, base)
    if absent:
        raise UserError(f"{path}: no adapter of {examples(absent)}, which {ADAPTER} asks for; is it cut off?")


def check_tensor(path: Path, name: str, tensor: Tensor | None, shape: tuple[int, ...]) -> None:
    """Checks that a tensor is there, of a shape, and finite."""
    if tensor is None:
        raise UserError(f"{path}: {name} is missing; is the file whole?")
    if tensor.shape != shape:
        empty = f"; it is empty; {GATHER}" if not tensor.numel() else ""
        raise UserError(f"{path}: {name} has shape {tuple(tensor.shape)}, expected {shape}{empty}")
    check_floating(path, name, tensor)
    if not tensor.isfinite().all():
        raise UserError(f"{path}: {name} is not finite; its training has failed")


def named_modules(config: JsonObject, key: str) -> Sequence[str]:
    """The modules that a setting lists; of a pattern, or nothing, none."""
    value = config.get(key)
    return [name for name in value if isinstance(name, str)] if isinstance(value, list) else []


def holds(module: str, names: Iterable[str]) -> bool:
    """Whether one of our names is of a module, in any spelling (LLaVA says mm_projector)."""
    spelled = f"{module}."
    ours = our_name(spelled) if our_name(spelled) != spelled else our_name(f"model.{spelled}")
    return any(f".{ours.removeprefix('model.')}" in f".{name}" for name in names)


def gaps(factors: Mapping[str, object], base: Mapping[str, Tensor]) -> list[str]:
    """Matrices without an adapter whose like has one in another layer."""
    found = {match.groups() for name in factors if (match := LAYER.match(name))}
    layers = {match[1] for name in base if (match := LAYER.match(name))}
    wanted = {(layer, part) for _, part in found for layer in layers}
    return [f"{TEXT}layers.{layer}.{part}" for layer, part in wanted - found]


def read_beside(path: Path, base: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Reads LLaVA's non_lora_trainables.bin, if it is there: the projector, all of it, and nothing else.

    Raises:
        UserError: it holds other or fewer weights, or misshapen ones.
    """
    if not path.exists():
        return {}
    found = {plain_name(name): tensor for name, tensor in read_file(path).items()}
    wanted = {name for name in base if name.startswith(PROJECTOR)}
    if found.keys() != wanted:
        raise UserError(
            f"{path}: holds {examples(found) or 'nothing'}; expected the projector's weights alone: "
            f"{', '.join(sorted(wanted))}, or the same as base_model.model.model.mm_projector..."
        )
    for name, tensor in found.items():
        check_tensor(path, name, tensor, tuple(base[name].shape))
    return found
