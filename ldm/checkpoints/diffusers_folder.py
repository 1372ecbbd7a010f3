"""Diffusers folders: strict reading of Stable Diffusion, InstructPix2Pix and LEGO pipelines."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextModel

from egogen.annotations import JsonObject, check_object
from egogen.errors import UserError, check, reason
from egogen.features.weight_files import BROKEN
from egogen.files import read_json
from ldm.checkpoints.single_file import JOIN
from ldm.checkpoints.stated_sizes import Sizes
from ldm.conditioner import Conditioner
from ldm.diffusion.schedule import TRAINING_SCHEDULE
from ldm.networks.architecture import Parts, make_conditioner, widened
from ldm.networks.distilled import Distilled
from ldm.networks.scales import distilled_of
from ldm.networks.shapes import (
    LATENT_CHANNELS,
    LATENT_SCALE,
    Architecture,
    Streams,
    TextShape,
    UNetShape,
    VAEShape,
    check_sizes,
)

INDEX = "model_index.json"
# Not stored by newer versions of transformers.
UNSTORED = {"text_model.embeddings.position_ids", "embeddings.position_ids"}

# What our networks, schedule and formats take for granted; other settings are read, or change nothing.
SETTINGS: Mapping[str, Mapping[str, object]] = {
    "scheduler/scheduler_config.json": {
        "prediction_type": "epsilon", "rescale_betas_zero_snr": False, "trained_betas": None,
        **TRAINING_SCHEDULE,
    },
    "text_encoder/config.json": {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5},
    "unet/config.json": {
        "act_fn": "silu", "addition_embed_type": None, "attention_type": "default",
        "center_input_sample": False, "class_embed_type": None, "downsample_padding": 1,
        "flip_sin_to_cos": True, "freq_shift": 0, "mid_block_scale_factor": 1, "norm_eps": 1e-5,
        "resnet_out_scale_factor": 1, "resnet_skip_time_act": False, "time_embedding_type": "positional",
        "timestep_post_act": None,
    },
    "vae/config.json": {
        "act_fn": "silu", "latents_mean": None, "latents_std": None, "scaling_factor": LATENT_SCALE,
        "shift_factor": None,
    },
}  # fmt: skip

# Networks whose class must know each setting that is on: diffusers passes over others with a warning.
PARTS = {"unet": UNet2DConditionModel, "vae": AutoencoderKL, "conditioner": Conditioner}
# But for where code of others lies, which is never run, and for how diffusers' `EMAModel` averaged, which it
# writes beside what it averaged.
CODE = ("auto_map", "custom_pipeline")
AVERAGED = (
    "decay", "inv_gamma", "min_decay", "optimization_step", "power", "update_after_step", "use_ema_warmup",
)  # fmt: skip

# Networks are built before their weights are looked at, layer by layer.
LAYERS = ("num_hidden_layers", "layers_per_block", "transformer_layers_per_block")
MOST_LAYERS = 200


class DiffusersFolder:
    """A pipeline folder: Stable Diffusion, InstructPix2Pix or LEGO.

    Raises:
        UserError: a part or tensor is missing, unknown or of another shape, a file is damaged, or the model
            works otherwise than ours (`SETTINGS`).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if (path / "zero_to_fp32.py").exists():
            raise UserError(f"{path}: {JOIN}")
        if not (path / INDEX).exists():
            is_vllm = any((path / name).exists() for name in ("tokenizer.model", "adapter_config.json"))
            raise UserError(
                f"{path}: no {INDEX} here; expected a diffusers pipeline folder, or a file, such as "
                f"checkpoints/last.ckpt of a training's folder{'; this is a VLLM, for --vllm' * is_vllm}"
            )
        read_json(path / INDEX)
        check_settings(path)
        # Without accelerate there is no other way, and diffusers says so each time.
        plain: dict[str, Any] = {"torch_dtype": torch.float32, "low_cpu_mem_usage": False}
        unet = load_part(path, "unet", UNet2DConditionModel.from_pretrained, **plain)
        vae = load_part(path, "vae", AutoencoderKL.from_pretrained, **plain)
        text_encoder = load_part(path, "text_encoder", CLIPTextModel.from_pretrained, dtype=torch.float32)
        conditioner = None
        if (path / "conditioner").is_dir():
            conditioner = load_part(path, "conditioner", Conditioner.from_pretrained, **plain)
        self.loaded = Parts(unet, vae, text_encoder, conditioner)
        self.distilled: Distilled | None = distilled_of(unet, f"{path / 'unet'}")

    @property
    def inputs(self) -> int:
        """Channels that its UNet takes."""
        return int(self.loaded.unet.config.in_channels)

    @property
    def streams(self) -> Streams | None:
        """The streams of features that it has weights for; None where there are none."""
        return None if self.loaded.conditioner is None else self.loaded.conditioner.streams

    def sizes(self, wanted: Sizes = None) -> Architecture:
        """Sizes of its networks, which it states itself; those wanted must equal them."""
        return wanted if isinstance(wanted, Architecture) else architecture_of(self.loaded)

    def parts(self, shape: Architecture, streams: Streams | None, use_ema: bool) -> Parts:  # noqa: ARG002 - it has one kind of weights
        """The networks; a UNet is widened to `shape`, without `streams` there is no conditioner.

        Raises:
            UserError: the folder's networks have other sizes.
        """
        if shape.unet.in_channels > self.inputs:
            widen(self.loaded.unet)
        check_sizes(self.path, architecture_of(self.loaded), shape)
        if streams is None:
            return self.loaded._replace(conditioner=None)
        if self.streams:
            return self.loaded
        return self.loaded._replace(conditioner=make_conditioner(shape, streams))


def check_settings(folder: Path) -> None:
    """Refuses a model that works otherwise than ours: its settings would be lost. Older files do not say all.

    Raises:
        UserError: one says otherwise, such as Stable Diffusion 2's or XL's, or is known to nobody here;
            names it.
    """
    for name, kind in PARTS.items():
        path = folder / name / "config.json"
        known = signature(kind.__init__).parameters
        stated = stated_in(path)
        if strange := [
            key for key in stated if stated[key] and key[:1] != "_" and key not in (*known, *CODE, *AVERAGED)
        ]:
            raise UserError(
                f"{path}: {strange[0]}: no setting of {kind.__name__} here, it would be passed over; is the "
                "model of a later version of diffusers?"
            )
    for name, wanted in SETTINGS.items():
        path = folder / name
        stated = stated_in(path)
        for key, value in wanted.items():
            found = stated.get(key, value)
            check(f"{path}: {key}", found, f"{value}, as of Stable Diffusion 1", found == value)
        for key in LAYERS:
            found = stated.get(key, 1)
            good = all(type(each) is int and each <= MOST_LAYERS for each in numbers_in(found))
            check(f"{path}: {key}", found, f"up to {MOST_LAYERS} layers", good)


def stated_in(path: Path) -> JsonObject:
    """The settings in a file; none where it is not there."""
    return check_object(read_json(path), f"{path}", "settings by name") if path.exists() else {}


def numbers_in(value: object) -> list[object]:
    """What a list, or a list of lists, holds; of a value itself."""
    return [inner for each in value for inner in numbers_in(each)] if isinstance(value, list) else [value]


def load_part(
    path: Path, name: str, load: Callable[..., Any], extras: bool = False, **options: object
) -> Any:  # noqa: ANN401 - a network
    """Loads one network and checks that its tensors are all there and, without `extras`, no others.

    Raises:
        UserError: see `DiffusersFolder`.
    """
    folder = path / name
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder}: has no config.json; expected a diffusers pipeline with its part {name!r}")
    try:
        model, info = load(folder, output_loading_info=True, local_files_only=True, **options)
    except BROKEN as error:
        raise UserError(f"{folder}: cannot be loaded ({' '.join(reason(error).split())[:300]})") from None
    check_info({**info, "unexpected_keys": ()} if extras else info, folder)
    return model


def check_info(info: Mapping[str, Iterable[object]], folder: Path) -> None:
    """Raises a `UserError` that names the first tensor which a load left out, and counts them."""
    for kind, words in (
        ("missing_keys", "is missing from"),
        ("unexpected_keys", "is unknown in"),
        ("mismatched_keys", "has another shape in"),
    ):
        found = sorted(str(name) for name in info.get(kind) or () if str(name) not in UNSTORED)
        if found:
            more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
            raise UserError(f"{folder}: tensor {found[0]!r}{more} {words} the folder's weights")


def widen(unet: UNet2DConditionModel) -> None:
    """Gives a UNet of 4 input channels 4 more, for the source latent, whose weights are zero (published)."""
    old = unet.conv_in
    if old.in_channels == 2 * LATENT_CHANNELS:
        return
    new = nn.Conv2d(2 * LATENT_CHANNELS, old.out_channels, old.kernel_size, padding=old.padding)
    new.load_state_dict({**old.state_dict(), "weight": widened(old.weight.detach(), new.in_channels)})
    unet.conv_in = new
    unet.register_to_config(in_channels=new.in_channels)


def architecture_of(parts: Parts) -> Architecture:
    """Sizes of loaded networks."""
    unet, vae, text = parts.unet.config, parts.vae.config, parts.text_encoder.config
    given = {} if parts.conditioner is None else parts.conditioner.config
    own = {name: given[name] for name in ("llm_width", "mixer_width") if name in given}
    return Architecture(
        unet=UNetShape(
            channels=list(unet.block_out_channels),
            attention=["CrossAttn" in kind for kind in unet.down_block_types],
            blocks=unet.layers_per_block,
            heads=unet.attention_head_dim,
            groups=unet.norm_num_groups,
            in_channels=unet.in_channels,
        ),
        vae=VAEShape(list(vae.block_out_channels), vae.layers_per_block, vae.norm_num_groups),
        text=TextShape(
            text.hidden_size,
            text.num_hidden_layers,
            text.num_attention_heads,
            text.intermediate_size,
            text.vocab_size,
        ),
        **own,
    )
