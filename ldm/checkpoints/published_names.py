"""One table of names: what a weight of diffusers or transformers is called in the published files."""

from __future__ import annotations

import re

from ldm.diffusion.schedule import SCHEDULE
from ldm.networks.architecture import TEXT, UNET, VAE, Parts
from ldm.networks.shapes import Architecture

POSITION_IDS = f"{TEXT}embeddings.position_ids"
EMA_DECAY, EMA_UPDATES = "model_ema.decay", "model_ema.num_updates"
SCALE_LAYER = f"{UNET}time_embed.cond_proj.weight"
# What a published file may hold besides the weights of our networks.
KNOWN_EXTRAS = {*SCHEDULE, POSITION_IDS, EMA_DECAY, EMA_UPDATES, "logvar"}

RESIDUAL = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
UNET_ENDS = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "time_embedding.cond_proj": "time_embed.cond_proj",  # ours: of a distilled UNet that takes scales
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
BLOCK = re.compile(
    r"(?P<way>down|up|mid)_blocks?\.(?:(?P<level>\d+)\.)?(?P<kind>resnets|attentions|downsamplers|upsamplers)"
    r"\.(?P<index>\d+)\.(?P<rest>.+)"
)


def published_names(parts: Parts, shape: Architecture) -> dict[str, str]:
    """Maps `<part>.<its own name>` of every weight to its name in a published file.

    The parts are `unet`, `vae`, `text_encoder` and `conditioner`.
    """
    names = {f"unet.{name}": UNET + unet_name(name, shape) for name in parts.unet.state_dict()}
    names |= {f"vae.{name}": VAE + vae_name(name, len(shape.vae.channels)) for name in parts.vae.state_dict()}
    for name in parts.text_encoder.state_dict():
        # transformers 5 dropped this prefix along the way.
        names[f"text_encoder.{name}"] = TEXT + name.removeprefix("text_model.")
    if parts.conditioner is not None:
        names |= {f"conditioner.{name}": name for name in parts.conditioner.state_dict()}
    return names


def ema_name(published: str) -> str:
    """Name of a weight's moving average: all dots removed, and for the UNet the leading `model.` too."""
    return "model_ema." + published.removeprefix("model.").replace(".", "")


def unet_name(name: str, shape: Architecture) -> str:
    """CompVis name of a UNet2DConditionModel weight."""
    stem, _, kind = name.rpartition(".")
    if stem in UNET_ENDS:
        return f"{UNET_ENDS[stem]}.{kind}"
    match = BLOCK.fullmatch(name)
    assert match, f"unknown UNet weight {name}"
    part, index, rest = match["kind"], int(match["index"]), match["rest"]
    if part == "resnets":
        stem, _, kind = rest.rpartition(".")
        rest = f"{RESIDUAL[stem]}.{kind}"
    if match["way"] == "mid":
        return f"middle_block.{2 * index if part == 'resnets' else 1}.{rest}"
    level, blocks = int(match["level"]), shape.unet.blocks
    if match["way"] == "down":
        first = 1 + level * (blocks + 1)
        if part == "downsamplers":
            return f"input_blocks.{first + blocks}.0.{rest.replace('conv', 'op')}"
        return f"input_blocks.{first + index}.{int(part == 'attentions')}.{rest}"
    first = level * (blocks + 1)
    if part == "upsamplers":
        # It follows the residual block and, on levels that have one, the attention block.
        has_attention = shape.unet.attention[::-1][level]
        return f"output_blocks.{first + blocks}.{1 + int(has_attention)}.{rest}"
    return f"output_blocks.{first + index}.{int(part == 'attentions')}.{rest}"


def vae_name(name: str, levels: int) -> str:
    """CompVis name of an AutoencoderKL weight."""
    side, _, inner = name.partition(".")
    match = BLOCK.fullmatch(inner)
    if not match:
        return name.replace("conv_norm_out", "norm_out")
    part, rest = match["kind"], match["rest"].replace("conv_shortcut", "nin_shortcut")
    if match["way"] == "mid" and part == "attentions":
        stem, _, kind = rest.rpartition(".")
        return f"{side}.mid.attn_1.{VAE_ATTENTION[stem]}.{kind}"
    if match["way"] == "mid":
        return f"{side}.mid.block_{int(match['index']) + 1}.{rest}"
    # The decoder counts its levels from the finest, diffusers from the coarsest.
    level = int(match["level"]) if match["way"] == "down" else levels - 1 - int(match["level"])
    if part == "resnets":
        return f"{side}.{match['way']}.{level}.block.{match['index']}.{rest}"
    return f"{side}.{match['way']}.{level}.{part.removesuffix('rs')}.{rest}"
