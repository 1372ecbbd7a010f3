"""LoRA files of ours and of others: their names for a layer, and adding them to networks, all or none.

Read are the names of diffusers (`unet.<layer>.lora_A.weight`, and older ones), of peft
(`base_model.model.<layer>.lora_A.weight`) and of kohya's scripts (`lora_unet_<layer>.lora_down.weight`),
which LCM-LoRA has too. A layer is looked up in the networks themselves, its dots as underscores.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY, LORA_WEIGHT_NAME_SAFE
from safetensors import safe_open
from torch import Tensor, nn

from egogen.adapter_settings import settings_fault
from egogen.annotations import check_object
from egogen.errors import UserError, shorten
from egogen.features.weight_files import SAFETENSORS, form_of
from egogen.files import read_json
from egogen.manifest import checkpoint_hash, file_hash
from ldm.checkpoints.compact_files import stated
from ldm.checkpoints.safe_reading import read
from ldm.config.lora import LoraFile
from ldm.networks.architecture import Parts
from ldm.networks.lora_layers import Delta, Layer, add

log = logging.getLogger(__name__)
BASE = "lego_base"  # in our files' headers: hash of the checkpoint that the LoRA was trained on
PATTERNS = ("alpha_pattern", "rank_pattern")  # settings that are read here, beside those of all adapters
PEFT_FILE, PEFT_SETTINGS = "adapter_model.safetensors", "adapter_config.json"
DOWN, UP, ALPHA = ("lora_A", "lora_down", "lora.down"), ("lora_B", "lora_up", "lora.up"), "alpha"
KINDS = "|".join(map(re.escape, (*DOWN, *UP, ALPHA)))
# What may be between dots: any text (`.*`), twice at most, but no groups and no repetitions of them.
LAYER_PATTERN = re.compile(r"\^?(?:[\w-]|\\?\.)*(?:\.\*(?:[\w-]|\\?\.)*){0,2}\$?")
LONGEST_NAME, LARGEST_ALPHA = 500, 1e6
KEY = re.compile(rf"(?P<layer>.+?)\.(?P<kind>{KINDS})(\.default(_\d+)?)?(\.weight)?")
# Of diffusers before 0.22: to_q of an attention's processor, and to_out without its place in the list.
PROCESSOR = re.compile(r"\.processor\.(to_\w+?)_lora\.")
PREFIXES = {
    "unet": ("", "unet.", "lora_unet_", "base_model.model.", "base_model.model.unet."),
    "text_encoder": (
        "text_encoder.",
        "lora_te_",
        "lora_te1_",
        "base_model.model.",
        "base_model.model.text_encoder.",
    ),
}


class Adapter(NamedTuple):
    """The tensors of one layer's adapter."""

    down: Tensor | None = None
    up: Tensor | None = None
    alpha: Tensor | None = None
    twice: bool = False  # one of them has two names in the file


class Stated(NamedTuple):
    """What a file says beside its tensors: peft's settings by network, and what it was trained on."""

    settings: Mapping[str, Mapping[str, Any]]
    base: str | None = None

    def scale(self, label: str, layer: str, rank: int, alpha: Tensor | None) -> float:
        """Alpha / rank of a layer's adapter; without a word on alpha it is the rank."""
        own = self.settings.get(label, {})
        patterns: Mapping[str, float] = own.get("alpha_pattern") or {}
        matching = [each for name, each in patterns.items() if fits(name, layer)]
        said = alpha.item() if alpha is not None else (matching or [own.get("lora_alpha", rank)])[0]
        return float(said) / (rank**0.5 if own.get("use_rslora") else rank)


def fits(pattern: str, layer: str) -> bool:
    """Whether a pattern of peft's settings means a layer."""
    return re.fullmatch(rf"(.*\.)?({pattern})", layer) is not None


def apply_loras(parts: Parts, loras: Sequence[LoraFile], ckpt: Path) -> None:
    """Adds LoRA files to the networks of a checkpoint, one after the other.

    Raises:
        UserError: see `read_lora` and `add_adapters_of`; or one of ours was trained on another checkpoint.
    """
    for lora in loras:
        path = Path(lora.path)
        weights, said = read_lora(path)
        if said.base is not None and said.base != checkpoint_hash(ckpt):
            raise UserError(
                f"{path}: was trained on another checkpoint than {ckpt}; give that one, or one of the "
                "training's own checkpoints, which know it"
            )
        count = add_weights(parts, weights, said, path, lora.weight)
        log.info("%s: added to %d layers, by %g", path, count, lora.weight)


def told_loras(loras: Sequence[LoraFile]) -> list[dict[str, object]]:
    """What makes a drawing of files what it is: their contents and weights, not where they are.

    A folder's settings are in its hash; those beside a file, which hold its alpha, are told as well.
    """
    told: list[dict[str, object]] = []
    for lora in loras:
        path = Path(lora.path)
        told.append({"sha256": checkpoint_hash(path), "weight": lora.weight})
        if beside := settings_beside(path):
            told[-1]["settings"] = file_hash(beside)
    return told


def settings_beside(path: Path) -> Path | None:
    """Peft's settings of a file that peft wrote, where they are beside it."""
    beside = path.with_name(PEFT_SETTINGS)
    return beside if path.name == PEFT_FILE and path.is_file() and beside.is_file() else None


def read_lora(path: Path) -> tuple[dict[str, Tensor], Stated]:
    """Tensors of a LoRA file, or of a folder that diffusers or peft wrote, and what it says of them.

    Raises:
        UserError: there is no such file, it is damaged, or no LoRA, or its settings ask for more than one.
    """
    if path.is_dir():
        inside = [path / name for name in (LORA_WEIGHT_NAME_SAFE, PEFT_FILE) if (path / name).is_file()]
        if not inside:
            raise UserError(f"{path}: has neither {LORA_WEIGHT_NAME_SAFE} nor {PEFT_FILE}; name the file")
        path = inside[0]
    weights = {name: value for name, value in read(path)["state_dict"].items() if isinstance(value, Tensor)}
    header: dict[str, str] = {}
    if form_of(path) == SAFETENSORS:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
    own: Mapping[str, Any] = {}
    if beside := settings_beside(path):
        own = check_object(read_json(beside), f"{beside}", "settings by name")
    settings: dict[str, dict[str, Any]] = {label: {**own} for label in PREFIXES}
    for name, value in stated(path, header, LORA_ADAPTER_METADATA_KEY).items():
        label, dot, key = name.partition(".")
        if not dot:  # a model's own `save_lora_adapter` names neither it nor its tensors
            label, key = "unet", name
        settings.setdefault(label, {})[key] = value
    for own in settings.values():
        check_alphas(own, path)
        if own.get("use_dora"):
            raise UserError(f"{path}: is a DoRA, which is not read; expected a LoRA")
        if fault := settings_fault(own, PATTERNS):
            raise UserError(f"{path}: {fault}")
    return weights, Stated(settings, header.get(BASE))


def check_alphas(own: Mapping[str, object], path: Path) -> None:
    """Refuses settings of peft's whose alphas are no numbers, or are for names that no layer is called by.

    A file's regular expressions are matched, so those are refused that could take for ever.

    Raises:
        UserError: names the first.
    """
    patterns = check_object(own.get("alpha_pattern") or {}, f"{path}: alpha_pattern", "numbers by layer")
    for name in patterns:
        if len(name) > LONGEST_NAME or not LAYER_PATTERN.fullmatch(name):
            raise UserError(f"{path}: alpha_pattern has {shorten(name)}, expected a layer's name")
    for value in (own.get("lora_alpha", 1), *patterns.values()):
        if not isinstance(value, int | float) or not abs(value) < LARGEST_ALPHA:
            raise UserError(f"{path}: an alpha is {shorten(value)}, expected a number")


def add_weights(
    parts: Parts, weights: Mapping[str, Tensor], said: Stated, path: Path, weight: float = 1.0
) -> int:
    """Adds a LoRA's tensors to the networks; returns to how many layers.

    Raises:
        UserError: there are tensors that belong to no LoRA, or adapters that are not whole, or fit no layer;
            counts them, and nothing is changed.
    """
    adapters, strange = grouped(weights)
    if strange or not adapters:
        found = f"{len(strange)} tensors are of none, the first {strange[0]!r}" if strange else "is empty"
        raise UserError(f"{path}: expected a LoRA (also of kohya's names); {found}; nothing was added")
    layers, faults = layers_of(parts), []
    wanted: dict[Layer, Delta] = {}
    for name, adapter in adapters.items():
        label, own, layer = layers.get(name.replace(".", "_"), ("", "", None))
        if layer is None:
            faults.append(f"{name}: no such layer")
        elif adapter.twice or layer in wanted:
            faults.append(f"{name}: this layer is there twice, in two spellings")
        elif adapter.down is None or adapter.up is None:
            faults.append(f"{name}: one of its two matrices is missing")
        elif not adapter.down.numel() or not adapter.down.ndim:
            faults.append(f"{name}: its rank is 0")
        elif adapter.alpha is not None and adapter.alpha.numel() != 1:
            faults.append(f"{name}: its alpha is {tuple(adapter.alpha.shape)}")
        else:
            scale = said.scale(label, own, adapter.down.shape[0], adapter.alpha)
            delta = Delta(adapter.down, adapter.up, scale)
            fault = delta.fault(layer)
            faults += [f"{name}: {fault}"] if fault else []
            wanted[layer] = delta
    if faults:
        raise UserError(
            f"{path}: {len(faults)} of its {len(adapters)} adapters cannot be added to this checkpoint "
            f"(the first is {faults[0]}); nothing was added: give a sound LoRA of its own architecture"
        )
    say_if_nothing(wanted.values(), path)
    say_unmatched(said, {own for _, own, layer in layers.values() if layer in wanted}, path)
    for layer, delta in wanted.items():
        add(layer, delta, weight)
    return len(wanted)


def say_unmatched(said: Stated, layers: Iterable[str], path: Path) -> None:
    """A line for alphas that are stated for layers without an adapter: they count for nothing."""
    stated = {name for own in said.settings.values() for name in own.get("alpha_pattern") or {}}
    lost = sorted(name for name in stated if not any(fits(name, layer) for layer in layers))
    if lost:
        log.warning("%s: alpha_pattern names %s, which fits none of its layers", path, shorten(lost[0]))


def say_if_nothing(deltas: Iterable[Delta], path: Path) -> None:
    """A line where a file's adapters leave all weights as they are."""
    if not any(delta.scale and delta.down.any() and delta.up.any() for delta in deltas):
        log.warning("%s: changes nothing: the alphas or the matrices of all its adapters are 0", path)


def grouped(weights: Mapping[str, Tensor]) -> tuple[dict[str, Adapter], list[str]]:
    """Tensors by the file's name of their layer; and the names of those that are of no adapter."""
    found: dict[str, Adapter] = {}
    strange = []
    for name, value in weights.items():
        match = KEY.fullmatch(PROCESSOR.sub(r".\1.lora.", name))
        if not match:
            strange.append(name)
            continue
        kind = "down" if match["kind"] in DOWN else "up" if match["kind"] in UP else ALPHA
        layer = match["layer"] + (".0" if match["layer"].endswith("to_out") else "")
        before = found.get(layer, Adapter())
        twice = before.twice or getattr(before, kind) is not None
        made: dict[str, Any] = {kind: value, "twice": twice}
        found[layer] = before._replace(**made)
    return found, strange


def layers_of(parts: Parts) -> dict[str, tuple[str, str, Layer]]:
    """All that files may call a layer, its dots as underscores -> network, its own name there, and it."""
    found: dict[str, tuple[str, str, Layer]] = {}
    for label, prefixes in PREFIXES.items():
        for own, layer in getattr(parts, label).named_modules():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                short = own.removeprefix("text_model.")  # which transformers 5 dropped along the way
                for name in {own, short, *([f"text_model.{short}"] if label == "text_encoder" else [])}:
                    found |= {f"{prefix}{name}".replace(".", "_"): (label, own, layer) for prefix in prefixes}
    return found
