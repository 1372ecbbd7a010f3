"""Published single files (`.ckpt`, `.safetensors`) into networks, strictly."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor
from transformers.initialization import no_init_weights

from egogen.errors import UserError, shorten
from egogen.features.weight_files import SHARDED
from ldm.checkpoints.published_names import KNOWN_EXTRAS, SCALE_LAYER, ema_name, published_names
from ldm.checkpoints.safe_reading import ARCHITECTURE, GUIDANCE, RESOLUTION, SETTINGS, read
from ldm.checkpoints.stated_sizes import Sizes, drawn_with, state_guidance, state_resolution, stated_sizes
from ldm.config.merge import user_error
from ldm.networks.architecture import TEXT, UNET, VAE, Parts, build, infer, overlay, widened
from ldm.networks.distilled import DISTILLED, Distilled, read_distilled
from ldm.networks.scales import add_scale_layer, distilled_of, state_distilled
from ldm.networks.shapes import BOTH, LATENT_CHANNELS, Architecture, Streams, check_sizes

# What may hold the tensors where `state_dict` does not; and names that wrappers put around those inside.
HOLDERS = ("model_state_dict", "module", "model")
WRAPPED = re.compile(r"(?<![^.])(module|_forward_module|_orig_mod)\.|_orig_mod(?=[a-z])")
OF_V_PREDICTION = ("v_pred", "ztsnr")  # tensors that say this by being there
OUTER = tuple(f"model.{part}" for part in ("model.", "model_ema.", VAE, TEXT))
JOIN = f"{SHARDED}, and give what that makes"
STREAMS = ("projection_img", "projection_txt", "self_attn_mix")
CONDITIONERS = (*(f"{part}." for part in STREAMS), *map(ema_name, STREAMS))  # and their averages
CONV_IN = f"{UNET}input_blocks.0.0.weight"


class SingleFile:
    """A published file: Stable Diffusion, InstructPix2Pix, LEGO, or one of our training runs.

    Raises:
        UserError: see `ldm.checkpoints.safe_reading.read`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.content = read(path)
        self.state = weights_of(self.content, path)

    @property
    def inputs(self) -> int | None:
        """Channels that its UNet takes; None where there is no UNet, which loading names."""
        return self.state[CONV_IN].shape[1] if CONV_IN in self.state else None

    @property
    def streams(self) -> Streams | None:
        """The streams of features that it has weights for; None where there are none."""
        return streams_of(self.state)

    @property
    def distilled(self) -> Distilled | None:
        """What it was distilled for; None if it was not."""
        stated = self.content.get(DISTILLED)
        return None if stated is None else read_distilled(stated, f"{self.path}")

    def sizes(self, wanted: Sizes = None) -> Architecture:
        """Sizes of its networks: as wanted, else as the file states them, else as its tensors tell.

        Raises:
            UserError: it is no checkpoint of a Stable Diffusion model, sizes do not exist, or it states
                others than are wanted.
        """
        own = self.content.get(ARCHITECTURE)
        heads, stated = stated_sizes(None if isinstance(wanted, Architecture) else wanted)
        try:
            if own is None:
                return wanted if isinstance(wanted, Architecture) else infer(self.state, heads, stated=stated)
            own = deepcopy(own)
            overlay(own, stated, "architecture")
            found = Architecture(**own)
        except (KeyError, TypeError) as error:
            raise UserError(f"{self.path}: not a Stable Diffusion checkpoint, {error} is missing") from None
        except ValidationError as error:
            raise UserError(f"{self.path}: {user_error(Architecture, error)}") from None
        if not isinstance(wanted, Architecture):
            return found
        check_sizes(self.path, found, wanted)
        return wanted

    def parts(self, shape: Architecture, streams: Streams | None, use_ema: bool) -> Parts:
        """The networks; without `streams` no conditioner, and one that the file lacks starts at random.

        Raises:
            UserError: missing or unknown tensors, or tensors of another shape; names the first, counts them.
        """
        # Random weights take seconds at full size: none are drawn where the file has them all.
        drawn = streams is not None and self.streams is None
        with nullcontext() if drawn else no_init_weights():
            parts = build(shape, streams is not None, streams or BOTH)
        if SCALE_LAYER in self.state:
            add_scale_layer(parts.unet)
        if self.distilled:
            state_distilled(parts.unet, self.distilled)
        distilled_of(parts.unet, f"{self.path}")  # a layer without a statement is refused
        load_state(parts, shape, self.state, self.path, use_ema)
        state_resolution(parts, self.content.get(RESOLUTION))
        state_guidance(parts, self.content.get(GUIDANCE) or drawn_with(self.content.get(SETTINGS)))
        return parts


def weights_of(content: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    """A file's tensors by published name; what wrappers of the model have put before names is taken off.

    DistributedDataParallel adds `module.`, torch.compile `_orig_mod.`, a trainer `model.` to all of them.

    Raises:
        UserError: it holds no tensors, or empty ones, or says that it predicts something else.
    """
    found: object = content["state_dict"]
    if isinstance(found, dict) and not any(isinstance(value, Tensor) for value in found.values()):
        inner = [found[name] for name in HOLDERS if isinstance(found.get(name), dict)]
        found = inner[0] if inner else found
    if not isinstance(found, dict):
        raise UserError(f"{path}: state_dict is {shorten(found)}, expected tensors by name")
    if others := [name for name, value in found.items() if not isinstance(value, Tensor)]:
        raise UserError(
            f"{path}: expected tensors by name, below `state_dict` or at the top; {others[0]!r} is none"
        )
    if strange := [name for name in OF_V_PREDICTION if name in found]:
        raise UserError(
            f"{path}: its {strange[0]!r} says that it predicts velocities (v-prediction); expected a model "
            "that predicts noise, as Stable Diffusion 1 does"
        )
    empty = [name for name, value in found.items() if not value.numel()]
    if empty:
        raise UserError(f"{path}: tensor {empty[0]!r} and {len(empty) - 1} others are empty; {JOIN}")
    names = {name: WRAPPED.sub("", name) for name in found}
    if any(name.startswith(OUTER) for name in names.values()):
        names = {name: plain.removeprefix("model.") for name, plain in names.items()}
    return {names[name]: value for name, value in found.items()}


def streams_of(state: Mapping[str, Tensor]) -> Streams | None:
    """The streams that published tensors are there for; None where there are none."""
    found = Streams("projection_img.weight" in state, "projection_txt.weight" in state)
    return found if any(found) else None


def load_state(
    parts: Parts, shape: Architecture, state: Mapping[str, Tensor], path: Path, use_ema: bool = False
) -> None:
    """Copies published tensors into the networks, strictly; see `SingleFile.parts`."""
    names = published_names(parts, shape)
    if streams_of(state) is None:
        names = {own: name for own, name in names.items() if not own.startswith("conditioner.")}
    check_keys(state, names, parts.conditioner is None, path)
    if use_ema:
        check_averages(state, [name for own, name in names.items() if own.startswith("unet.")], path)
    for label, module in parts._asdict().items():
        if module is None:
            continue
        for own, target in module.state_dict().items():
            name = names.get(f"{label}.{own}")
            if name is None:
                continue
            value = state.get(ema_name(name), state[name]) if use_ema else state[name]
            copy_tensor(target, value, name, path)


def check_keys(state: Mapping[str, Tensor], names: Mapping[str, str], plain: bool, path: Path) -> None:
    """Raises a `UserError` for a missing or unknown tensor; a conditioner's may stay unused if `plain`."""
    wanted = set(names.values())
    allowed = wanted | {ema_name(name) for name in wanted} | KNOWN_EXTRAS
    optional = CONDITIONERS if plain else ()
    missing = sorted(wanted - set(state))
    unknown = sorted(name for name in set(state) - allowed if not name.startswith(optional))
    for kind, found in (("is missing from", missing), ("is unknown in", unknown)):
        if found:
            more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
            raise UserError(
                f"{path}: tensor {found[0]!r}{more} {kind} the file; is it a checkpoint of this architecture?"
            )


def check_averages(state: Mapping[str, Tensor], unet: Sequence[str], path: Path) -> None:
    """Raises a `UserError` for moving averages of a part of the UNet alone: a mixture is no model."""
    found = sum(ema_name(name) in state for name in unet)
    if 0 < found < len(unet):
        raise UserError(
            f"{path}: has moving averages of {found} of the UNet's {len(unet)} weights; copy it again, or "
            "take the last weights (--no-ema)"
        )


def copy_tensor(target: Tensor, value: Tensor, name: str, path: Path) -> None:
    """Copies one tensor, widening the UNet's first convolution from 4 to 8 channels with zeros if need be.

    Raises:
        UserError: the shapes differ, or its numbers are codes of quantised ones.
    """
    if not value.is_floating_point():
        raise UserError(
            f"{path}: tensor {name!r} holds {value.dtype}, expected floating-point numbers; a quantised or "
            "packed file is not read: take one of 16 or 32 bits"
        )
    if name == CONV_IN and value.shape[1] == LATENT_CHANNELS < target.shape[1]:
        value = widened(value, target.shape[1])
    # The VAE's attention weights are 1 x 1 convolutions in published files.
    if value.shape[: target.ndim] == target.shape and value.numel() == target.numel():
        value = value.reshape(target.shape)
    if value.shape != target.shape:
        raise UserError(
            f"{path}: tensor {name!r} is {tuple(value.shape)}, expected {tuple(target.shape)}; "
            "the checkpoint and the configuration's model.architecture do not belong together"
        )
    with torch.no_grad():
        target.copy_(value)
