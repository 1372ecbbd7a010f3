"""Checkpoints into networks, strictly, and networks into published single files (`.ckpt`)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from egogen.errors import UserError
from egogen.files import atomic_open
from ldm.checkpoints.diffusers_folder import architecture_of, load_folder, widen
from ldm.checkpoints.published_names import ema_name, published_names
from ldm.checkpoints.safe_reading import ARCHITECTURE, read
from ldm.conditioner import BOTH, Streams
from ldm.diffusion.sampler import BETA_END, BETA_START, TRAINING_STEPS
from ldm.networks.architecture import (
    LATENT_CHANNELS,
    TEXT,
    UNET,
    UNET_HEADS,
    Architecture,
    Parts,
    build,
    from_plain,
    infer,
    make_conditioner,
    overlay,
)

CONV_IN = f"{UNET}input_blocks.0.0.weight"
POSITION_IDS = f"{TEXT}embeddings.position_ids"
EMA_DECAY, EMA_UPDATES = "model_ema.decay", "model_ema.num_updates"
SCHEDULE = [
    "betas", "alphas_cumprod", "alphas_cumprod_prev", "sqrt_alphas_cumprod", "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod", "sqrt_recip_alphas_cumprod", "sqrt_recipm1_alphas_cumprod",
    "posterior_variance", "posterior_log_variance_clipped", "posterior_mean_coef1", "posterior_mean_coef2",
]  # fmt: skip
# What a published file may hold besides the weights of our networks.
KNOWN_EXTRAS = {*SCHEDULE, POSITION_IDS, EMA_DECAY, EMA_UPDATES, "logvar"}


def load_parts(
    path: Path,
    shape: Architecture | None = None,
    use_ema: bool = True,
    conditioner: bool | None = None,
    new_conditioner: bool = False,
    streams: Streams | None = None,
    inputs: int | None = None,
) -> Parts:
    """Builds the networks and loads a published file, or a diffusers folder, into them.

    Args:
        path: the file or folder.
        shape: sizes that it must have; read off it if None.
        use_ema: take the moving averages where the file has them.
        conditioner: whether to make one; by default if the file has one.
        new_conditioner: a file without one (Stable Diffusion, InstructPix2Pix) is good; it starts at random.
        streams: those of the conditioner; by default those of the file, or both where there are none.
        inputs: channels that the file's UNet must take, 4 (Stable Diffusion) or 8 (with a source latent); by
            default 8, and a UNet of 4 is widened with zeros.

    Raises:
        UserError: missing or unknown tensors, or tensors of another shape; names the first and counts them.
    """
    if path.is_dir():
        return parts_of_folder(path, shape, conditioner, new_conditioner, streams, inputs)
    content = read(path)
    state = content["state_dict"]
    shape = with_inputs(shape or sizes(content, path), inputs)
    if CONV_IN in state:
        check_inputs(path, state[CONV_IN].shape[1], inputs)
    has = streams_of(state)
    conditioner = has is not None if conditioner is None else conditioner
    if conditioner:
        check_conditioner(path, has, new_conditioner, streams)
    parts = build(shape, conditioner, has or streams or BOTH)
    load_state(parts, shape, state, path, use_ema)
    return parts


def parts_of_folder(
    path: Path,
    shape: Architecture | None,
    conditioner: bool | None,
    new_conditioner: bool,
    streams: Streams | None,
    inputs: int | None,
) -> Parts:
    """Like `load_parts`, from a diffusers folder."""
    parts = load_folder(path)
    check_inputs(path, parts.unet.config.in_channels, inputs)
    if inputs is None:
        widen(parts.unet)
    found = architecture_of(parts)
    shape = found if shape is None else with_inputs(shape, inputs)
    if (found.unet, found.vae, found.text) != (shape.unet, shape.vae, shape.text):
        raise UserError(
            f"{path}: the folder and the configuration's model.architecture do not belong together; the "
            f"folder has {found.unet}, {found.vae}, {found.text}"
        )
    has = None if parts.conditioner is None else parts.conditioner.streams
    conditioner = has is not None if conditioner is None else conditioner
    if not conditioner:
        return parts._replace(conditioner=None)
    check_conditioner(path, has, new_conditioner, streams)
    return parts if has else parts._replace(conditioner=make_conditioner(shape, streams or BOTH))


def with_inputs(shape: Architecture, inputs: int | None) -> Architecture:
    """Sizes whose UNet takes so many channels, by default 8."""
    return replace(shape, unet=replace(shape.unet, in_channels=inputs or 2 * LATENT_CHANNELS))


def check_inputs(path: Path, found: int, wanted: int | None) -> None:
    """Refuses a UNet that takes another number of channels.

    Raises:
        UserError: it does.
    """
    if wanted in (None, found):
        return
    if wanted == LATENT_CHANNELS:
        advice = "this method needs a plain Stable Diffusion, whose UNet takes 4 and sees no source frame"
    else:
        advice = "this method needs InstructPix2Pix or LEGO, whose UNet takes 8, the source frame with them"
    raise UserError(f"{path}: its UNet takes {found} channels; {advice}")


def streams_of(state: Mapping[str, Tensor]) -> Streams | None:
    """The streams that a file has weights for; None where there are none."""
    found = Streams("projection_img.weight" in state, "projection_txt.weight" in state)
    return found if any(found) else None


def check_conditioner(path: Path, has: Streams | None, may_be_new: bool, wanted: Streams | None) -> None:
    """Refuses a checkpoint that lacks weights for VLLM features, or has those of other streams.

    Raises:
        UserError: it does.
    """
    if has is None and not may_be_new:
        raise UserError(
            f"{path}: has no weights for VLLM features (projection_img ...); give a LEGO checkpoint, or set "
            "model.vllm_features=false to use it as InstructPix2Pix"
        )
    if has is not None and wanted is not None and has != wanted:
        raise UserError(
            f"{path}: has weights for {has}, the configuration wants {wanted}; set "
            f"model.image_features={str(has.image).lower()} and model.text_features={str(has.text).lower()}"
        )


def sizes(
    content: Mapping[str, Any],
    path: Path,
    unet_heads: int = UNET_HEADS,
    stated: Mapping[str, Any] | None = None,
) -> Architecture:
    """Sizes of a file's networks, as the file states them or else as its tensors tell.

    Args:
        content: what `read` gave.
        path: for messages.
        unet_heads: attention heads of the UNet, where the file does not state them.
        stated: sizes that go before those of the file.

    Raises:
        UserError: it is no checkpoint of a Stable Diffusion model.
    """
    try:
        if ARCHITECTURE in content:
            found = dict(content[ARCHITECTURE])
            overlay(found, stated or {}, "architecture")
            shape = from_plain(found)
        else:
            shape = infer(content["state_dict"], unet_heads, stated=stated)
    except (KeyError, TypeError) as error:
        raise UserError(f"{path}: not a Stable Diffusion checkpoint, {error} is missing") from None
    shape.unet.in_channels = 2 * LATENT_CHANNELS
    return shape


def load_state(
    parts: Parts, shape: Architecture, state: Mapping[str, Tensor], path: Path, use_ema: bool = False
) -> None:
    """Copies published tensors into the networks, strictly.

    Raises:
        UserError: see `load_parts`.
    """
    names = published_names(parts, shape)
    if streams_of(state) is None:
        names = {own: name for own, name in names.items() if not own.startswith("conditioner.")}
    check_keys(state, names, parts.conditioner is None, path)
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
    """Compares a file's tensor names with those of the networks.

    Args:
        state: the file's tensors.
        names: own name -> published name of every tensor that is wanted.
        plain: no conditioner is wanted, so that one in the file may stay unused.
        path: for messages.

    Raises:
        UserError: a name is missing or unknown.
    """
    wanted = set(names.values())
    allowed = wanted | {ema_name(name) for name in wanted} | KNOWN_EXTRAS
    optional = ("projection_img.", "projection_txt.", "self_attn_mix.") if plain else ()
    missing = sorted(wanted - set(state))
    unknown = sorted(name for name in set(state) - allowed if not name.startswith(("model_ema.", *optional)))
    for kind, found in (("is missing from", missing), ("is unknown in", unknown)):
        if found:
            more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
            raise UserError(
                f"{path}: tensor {found[0]!r}{more} {kind} the file; is it a checkpoint of this architecture?"
            )


def copy_tensor(target: Tensor, value: Tensor, name: str, path: Path) -> None:
    """Copies one tensor, widening the UNet's first convolution from 4 to 8 channels with zeros if need be.

    Raises:
        UserError: the shapes differ.
    """
    if name == CONV_IN and value.shape[1] == LATENT_CHANNELS < target.shape[1]:
        extra = target.shape[1] - LATENT_CHANNELS
        value = torch.cat([value, value.new_zeros(value.shape[0], extra, *value.shape[2:])], dim=1)
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


def published_state(parts: Parts, shape: Architecture) -> dict[str, Tensor]:
    """The networks' weights by published name, with the schedule's buffers."""
    state = training_schedule()
    names = published_names(parts, shape)
    for label, module in parts._asdict().items():
        for own, value in module.state_dict().items() if module is not None else ():
            name = names[f"{label}.{own}"]
            is_conv = ".attn_1." in name and value.ndim == 2
            state[name] = (value[:, :, None, None] if is_conv else value).detach().cpu().contiguous()
    state[POSITION_IDS] = torch.arange(parts.text_encoder.config.max_position_embeddings)[None]
    return state


def write(path: Path, state: Mapping[str, Tensor], shape: Architecture | None = None) -> None:
    """Writes a published single file atomically, with the sizes that its tensors do not tell.

    Args:
        path: its suffix chooses the format, `.safetensors` or torch's own.
        state: tensors by published name.
        shape: the sizes.
    """
    if path.suffix == ".safetensors":
        stated = {} if shape is None else {ARCHITECTURE: json.dumps(asdict(shape))}
        with atomic_open(path) as file:
            plain = {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
            save_file(plain, file.name, metadata={"format": "pt", **stated})
        return
    content: dict[str, Any] = {"state_dict": dict(state)}
    if shape is not None:
        content[ARCHITECTURE] = asdict(shape)
    with atomic_open(path) as file:
        torch.save(content, file)


def training_schedule() -> dict[str, Tensor]:
    """The twelve schedule buffers of a published file (Ho et al. 2020, equations 4 and 7), float32 [1000]."""
    betas = np.linspace(BETA_START**0.5, BETA_END**0.5, TRAINING_STEPS) ** 2
    product = np.cumprod(1 - betas)
    before = np.append(1.0, product[:-1])
    variance = betas * (1 - before) / (1 - product)
    values = [
        betas, product, before, np.sqrt(product), np.sqrt(1 - product), np.log(1 - product),
        np.sqrt(1 / product), np.sqrt(1 / product - 1), variance, np.log(np.maximum(variance, 1e-20)),
        betas * np.sqrt(before) / (1 - product), (1 - before) * np.sqrt(1 - betas) / (1 - product),
    ]  # fmt: skip
    return {
        name: torch.tensor(value, dtype=torch.float32) for name, value in zip(SCHEDULE, values, strict=True)
    }
