"""The networks: built by their sizes, which are stated or read off a checkpoint's tensors."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count, takewhile
from typing import Any, NamedTuple

from diffusers import AutoencoderKL, UNet2DConditionModel
from jaxtyping import Float
from torch import Tensor, cat
from transformers import CLIPTextConfig, CLIPTextModel

from egogen.errors import UserError
from ldm.conditioner import Conditioner
from ldm.networks.shapes import (
    BOTH,
    LATENT_CHANNELS,
    LATENT_SCALE,
    MIXER_WIDTH,
    NORM_GROUPS,
    TEXT_HEAD_WIDTH,
    UNET_HEADS,
    Architecture,
    Streams,
)

UNET = "model.diffusion_model."
VAE = "first_stage_model."
TEXT = "cond_stage_model.transformer.text_model."


class Parts(NamedTuple):
    """The networks of stage 2. Without VLLM features there is no conditioner, and it is InstructPix2Pix."""

    unet: UNet2DConditionModel
    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    conditioner: Conditioner | None


def build(shape: Architecture, conditioner: bool = True, streams: Streams = BOTH) -> Parts:
    """Builds the networks with random weights (under `torch.device("meta")`, with none)."""
    unet = UNet2DConditionModel(
        in_channels=shape.unet.in_channels,
        out_channels=LATENT_CHANNELS,
        block_out_channels=shape.unet.channels,
        layers_per_block=shape.unet.blocks,
        norm_num_groups=shape.unet.groups,
        attention_head_dim=shape.unet.heads,  # diffusers keeps the number of heads under this name
        cross_attention_dim=shape.text.width,
        down_block_types=["CrossAttnDownBlock2D" if has else "DownBlock2D" for has in shape.unet.attention],
        up_block_types=["CrossAttnUpBlock2D" if has else "UpBlock2D" for has in shape.unet.attention[::-1]],
    )
    levels = len(shape.vae.channels)
    vae = AutoencoderKL(
        block_out_channels=shape.vae.channels,
        layers_per_block=shape.vae.blocks,
        norm_num_groups=shape.vae.groups,
        latent_channels=LATENT_CHANNELS,
        scaling_factor=LATENT_SCALE,
        down_block_types=["DownEncoderBlock2D"] * levels,
        up_block_types=["UpDecoderBlock2D"] * levels,
    )
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            hidden_size=shape.text.width,
            num_hidden_layers=shape.text.layers,
            num_attention_heads=shape.text.heads,
            intermediate_size=shape.text.intermediate,
            vocab_size=shape.text.vocab,
            projection_dim=shape.text.width,
        )
    )
    made = make_conditioner(shape, streams) if conditioner else None
    return Parts(unet, vae, text_encoder, made)


def make_conditioner(shape: Architecture, streams: Streams) -> Conditioner:
    """Builds a conditioner with random weights."""
    return Conditioner(shape.llm_width, shape.text.width, shape.mixer_width, *streams)


def infer(
    state: Mapping[str, Tensor],
    unet_heads: int = UNET_HEADS,
    stated: Mapping[str, object] | None = None,
) -> Architecture:
    """Reads the sizes off a published state dict; what no tensor tells is as in Stable Diffusion 1.5.

    Args:
        state: tensors by their published names; EMA names are not needed.
        unet_heads: attention heads of the UNet, which no tensor tells.
        stated: sizes that go before all this, such as `{"unet": {"groups": 8}}`.

    Raises:
        KeyError: a tensor that tells a size is missing.
        UserError: there is no size of a stated name.
        pydantic.ValidationError: sizes do not belong together.
    """
    vocab, width = state[f"{TEXT}embeddings.token_embedding.weight"].shape
    text = {
        "width": width,
        "layers": count_up(state, TEXT + "encoder.layers.{}.layer_norm1.weight"),
        "heads": max(1, width // TEXT_HEAD_WIDTH),
        "intermediate": state[f"{TEXT}encoder.layers.0.mlp.fc1.weight"].shape[0],
        "vocab": vocab,
    }
    levels = count_up(state, VAE + "encoder.down.{}.block.0.conv1.weight")
    vae = {
        "channels": [state[f"{VAE}encoder.down.{i}.block.0.conv1.weight"].shape[0] for i in range(levels)],
        "blocks": count_up(state, VAE + "encoder.down.0.block.{}.conv1.weight"),
        "groups": NORM_GROUPS,
    }
    projection = state.get("projection_img.weight", state.get("projection_txt.weight"))
    mixer = state.get("self_attn_mix.layers.0.linear1.weight")
    found: dict[str, Any] = {
        "unet": infer_unet(state, unet_heads),
        "vae": vae,
        "text": text,
        "llm_width": Architecture.llm_width if projection is None else projection.shape[1],
        "mixer_width": MIXER_WIDTH if mixer is None else mixer.shape[0],
    }
    overlay(found, stated or {}, "architecture")
    return Architecture(**found)


def infer_unet(state: Mapping[str, Tensor], heads: int) -> dict[str, Any]:
    """Reads the UNet's levels: a run of residual blocks, ended by a downsampling block."""
    levels: list[list[tuple[int, bool]]] = [[]]
    for index in count(1):
        prefix = f"{UNET}input_blocks.{index}"
        if (residual := state.get(f"{prefix}.0.in_layers.2.weight")) is not None:
            levels[-1].append((residual.shape[0], f"{prefix}.1.norm.weight" in state))
        elif f"{prefix}.0.op.weight" in state:
            levels.append([])
        else:
            break
    return {
        "channels": [level[0][0] for level in levels],
        "attention": [level[0][1] for level in levels],
        "blocks": len(levels[0]),
        "heads": heads,
        "groups": NORM_GROUPS,
        "in_channels": state[f"{UNET}input_blocks.0.0.weight"].shape[1],
    }


def overlay(base: dict[str, Any], layer: Mapping[str, object], place: str) -> None:
    """Lays stated sizes over found ones; raises a `UserError` for a name that no size has."""
    for key, value in layer.items():
        if key not in base:
            raise UserError(f"{place}.{key}: no such size; allowed are {', '.join(base)}")
        if isinstance(base[key], dict):
            if not isinstance(value, Mapping):
                raise UserError(f"{place}.{key}: got {value!r}, expected sizes by name")
            overlay(base[key], value, f"{place}.{key}")
        else:
            base[key] = value


def count_up(state: Mapping[str, Tensor], pattern: str) -> int:
    """How many of `pattern` with 0, 1, 2 ... there are."""
    return sum(1 for _ in takewhile(lambda index: pattern.format(index) in state, count()))


def widened(weight: Float[Tensor, "o i k k"], inputs: int) -> Float[Tensor, "o inputs k k"]:
    """A first convolution's weight with zeros for the source latent's channels (published)."""
    missing = inputs - weight.shape[1]
    return cat([weight, weight.new_zeros(weight.shape[0], missing, *weight.shape[2:])], dim=1)
