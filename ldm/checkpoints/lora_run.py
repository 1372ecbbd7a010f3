"""A checkpoint of a training of adapters: they, the conditioner, and which checkpoint they were trained on.

Reading gives the networks of that checkpoint with the adapters added to their weights: a plain LEGO, which
all commands take as any other.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY, LORA_WEIGHT_NAME_SAFE
from pydantic.dataclasses import dataclass
from safetensors.torch import save_file
from torch import Tensor

from egogen.errors import UserError
from egogen.files import atomic_folder
from egogen.manifest import checkpoint_hash
from ldm.checkpoints.diffusers_folder import DiffusersFolder
from ldm.checkpoints.lora_files import BASE, Stated, add_weights
from ldm.checkpoints.published_names import ema_name
from ldm.checkpoints.safe_reading import ARCHITECTURE, GUIDANCE, LORA, RESOLUTION, SETTINGS, read
from ldm.checkpoints.single_file import SingleFile, check_keys, copy_tensor, streams_of, weights_of
from ldm.checkpoints.stated_sizes import Sizes, drawn_with, state_guidance, state_resolution
from ldm.conditioner import Conditioner
from ldm.config.lora import LoraConfig
from ldm.config.merge import validated
from ldm.config.ranges import SECTION
from ldm.networks.architecture import Parts, make_conditioner
from ldm.networks.distilled import Distilled
from ldm.networks.lora_layers import targets_of
from ldm.networks.shapes import LATENT_CHANNELS, Architecture, Streams, check_sizes

log = logging.getLogger(__name__)
UNET = "unet."  # before the adapters' names, as diffusers has it
CONDITIONER = "conditioner"  # folder of an export


@dataclass(frozen=True, config=SECTION)
class StatedLora:
    """What such a checkpoint says: its adapters' settings; path and hash of what they were trained on."""

    settings: LoraConfig
    base: str
    sha256: str

    def find_base(self, path: Path) -> Path:
        """The checkpoint that the adapters of the file `path` were trained on: where it was, or beside it.

        Raises:
            UserError: it is in neither place, or another one.
        """
        name = Path(self.base).name
        places = [Path(self.base), path.parent / name, path.resolve().parent / name]
        found = next((place for place in places if place.exists()), None)
        if found is None:
            raise UserError(
                f"{path}: holds adapters of {self.base}, which is not there; put that file into "
                f"{path.parent}, or a link to it"
            )
        if base_hash(found) != self.sha256:
            raise UserError(
                f"{found}: is not the checkpoint that the adapters of {path} were trained on (SHA-256 "
                f"{self.sha256[:12]}...); put that one there"
            )
        return found


def read_stated(content: Mapping[str, Any], path: Path) -> StatedLora:
    """What a checkpoint states.

    Raises:
        UserError: it is no such statement.
    """
    try:
        return validated(StatedLora, content[LORA])
    except UserError as error:
        raise UserError(f"{path}: {LORA}: {error}") from None


def base_hash(path: Path) -> str:
    """SHA-256 of a checkpoint, computed once in a process."""
    return hash_once(path.resolve(), path.stat().st_mtime_ns)


@lru_cache(maxsize=8)
def hash_once(path: Path, changed: int) -> str:  # noqa: ARG001 - a changed file is another one
    """See `base_hash`."""
    return checkpoint_hash(path)


class AdapterFile:
    """The file of such a checkpoint.

    Raises:
        UserError: it states no adapters, or holds no tensors.
    """

    def __init__(self, path: Path, content: Mapping[str, Any]) -> None:
        if LORA not in content:
            raise UserError(f"{path}: is no checkpoint of a training with model.lora; it is whole already")
        self.path, self.content = path, content
        self.state = weights_of(content, path)
        self.stated = read_stated(content, path)

    @property
    def streams(self) -> Streams | None:
        """The streams of features that it has weights for; None where there are none."""
        return streams_of(self.state)

    def sizes(self, wanted: Sizes = None) -> Architecture:
        """Sizes of its networks, which it states itself.

        Raises:
            UserError: others are wanted.
        """
        found = validated(Architecture, self.content.get(ARCHITECTURE))
        if not isinstance(wanted, Architecture):
            return found
        check_sizes(self.path, found, wanted)
        return wanted

    def tensors(self, use_ema: bool) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Those of the adapters, and those of the conditioner; averaged if asked for."""
        last = {name: value for name, value in self.state.items() if not name.startswith("model_ema.")}
        found = {
            name: self.state.get(ema_name(name), value) if use_ema else value for name, value in last.items()
        }
        adapters = {name: value for name, value in found.items() if name.startswith(UNET)}
        return adapters, {name: value for name, value in found.items() if name not in adapters}

    def conditioner(self, shape: Architecture, streams: Streams, use_ema: bool) -> Conditioner:
        """The conditioner, which was trained whole; a file without one gives a new one."""
        made = make_conditioner(shape, self.streams or streams)
        if self.streams:
            own, rest = made.state_dict(), self.tensors(use_ema)[1]
            check_keys(rest, {name: name for name in own}, False, self.path)
            for name, target in own.items():
                copy_tensor(target, rest[name], name, self.path)
        return made


class LoraRun(AdapterFile):
    """The same over what it was trained on, `base`: a source of networks.

    Raises:
        UserError: see `AdapterFile`.
    """

    def __init__(
        self, path: Path, content: Mapping[str, Any], base: SingleFile | DiffusersFolder | LoraRun
    ) -> None:
        super().__init__(path, content)
        self.base = base

    @property
    def inputs(self) -> int:
        """Channels that its UNet takes."""
        return 2 * LATENT_CHANNELS

    @property
    def distilled(self) -> Distilled | None:
        """What it was distilled for: nothing, as its base."""
        return self.base.distilled

    def parts(self, shape: Architecture, streams: Streams | None, use_ema: bool) -> Parts:
        """The networks, with the adapters in their weights; without `streams` no conditioner.

        Raises:
            UserError: missing or unknown tensors, or tensors of another shape; names the first, counts them.
        """
        parts = self.base.parts(
            shape, None, use_ema=False
        )  # its last weights, beside which they were trained
        adapters, wanted = self.tensors(use_ema)[0], targets_of(parts.unet, self.stated.settings.targets)
        if len(adapters) != 2 * len(wanted):
            raise UserError(
                f"{self.path}: holds {len(adapters)} tensors of adapters, expected {2 * len(wanted)}, two "
                "for each layer; copy it again"
            )
        add_weights(parts, adapters, Stated({"unet": {"lora_alpha": self.stated.settings.alpha}}), self.path)
        if streams is not None:
            parts = parts._replace(conditioner=self.conditioner(shape, streams, use_ema))
        state_resolution(parts, self.content.get(RESOLUTION))
        state_guidance(parts, self.content.get(GUIDANCE) or drawn_with(self.content.get(SETTINGS)))
        return parts


def export(ckpt: Path, folder: Path, use_ema: bool = True) -> None:
    """Writes what other programs read: diffusers' LoRA file and, beside it, the conditioner.

    Args:
        ckpt: a checkpoint of a training of adapters.
        folder: appears whole, in place of an older one.
        use_ema: take the moving averages.

    Raises:
        UserError: the checkpoint is of no such training.
    """
    file = AdapterFile(ckpt, read(ckpt))
    settings = file.stated.settings
    told = {"r": settings.rank, "lora_alpha": settings.alpha, "target_modules": settings.targets}
    header = {
        "format": "pt",
        LORA_ADAPTER_METADATA_KEY: json.dumps({f"{UNET}{name}": value for name, value in told.items()}),
        BASE: file.stated.sha256,
    }
    adapters = {name: value.clone().contiguous() for name, value in file.tensors(use_ema)[0].items()}
    shutil.rmtree(folder, ignore_errors=True)
    with atomic_folder(folder) as part:
        save_file(adapters, part / LORA_WEIGHT_NAME_SAFE, metadata=header)
        if file.streams:
            made = file.conditioner(file.sizes(), file.streams, use_ema)
            made.save_pretrained(part / CONDITIONER)
    log.info("wrote %s, for diffusers' load_lora_weights", folder / LORA_WEIGHT_NAME_SAFE)


def statement(settings: LoraConfig, base: Path) -> dict[str, Any]:
    """What a checkpoint of adapters states."""
    return asdict(StatedLora(settings, f"{base.resolve()}", base_hash(base)))
