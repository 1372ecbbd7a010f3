"""What is stated and not read off tensors: sizes by a user; by a checkpoint its frames' side and guidance."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path

from egogen.annotations import check_object
from egogen.files import read_yaml
from ldm.config.merge import resolved
from ldm.networks.architecture import Parts
from ldm.networks.distilled import GUIDANCE_IN_CONFIG
from ldm.networks.shapes import UNET_HEADS, Architecture

# What a CompVis configuration calls the UNet's attention heads.
COMPVIS_HEADS = "num_heads"


# All sizes; or a YAML file or mapping with some of them, either ours (`unet: {heads: 4}`, also below
# `model.architecture`) or a CompVis one (`unet_config.params.num_heads`); or nothing.
Sizes = Architecture | Mapping[str, object] | str | Path | None


def stated_sizes(config: Mapping[str, object] | str | Path | None) -> tuple[int, Mapping[str, object]]:
    """The UNet's attention heads, and the sizes that a configuration states: `{"unet": {"groups": 8}}`."""
    tree = {} if config is None else as_tree(config)
    model = tree.get("model")
    stated = model.get("architecture") if isinstance(model, Mapping) else None
    if not isinstance(stated, Mapping):
        stated = {field.name: tree[field.name] for field in fields(Architecture) if field.name in tree}
    return next(compvis_heads(tree), UNET_HEADS), stated


def resolution_of(parts: Parts) -> int | None:
    """The side in pixels of the squares that networks were trained to draw; None where nothing says it.

    In memory and in diffusers folders the UNet's `sample_size` says it, in latent cells.
    """
    side = parts.unet.config.sample_size
    return side * factor_of(parts) if isinstance(side, int) else None


def state_resolution(parts: Parts, resolution: object) -> None:
    """Notes what `resolution_of` tells; what is no side, such as None, is not noted."""
    if isinstance(resolution, int) and resolution > 0:
        parts.unet.register_to_config(sample_size=resolution // factor_of(parts))


def guidance_of(parts: Parts) -> list[float] | None:
    """s_T and s_I that a checkpoint is drawn with where nobody says others; None where nothing says it.

    Published files say nothing; ours say what their training drew its pictures with.
    """
    found: list[float] | None = parts.unet.config.get(GUIDANCE_IN_CONFIG)
    return found


def state_guidance(parts: Parts, scales: object) -> None:
    """Notes what `guidance_of` tells; what is no pair of scales, such as None, is not noted."""
    if isinstance(scales, list) and len(scales) == 2 and all(isinstance(each, float) for each in scales):
        parts.unet.register_to_config(**{GUIDANCE_IN_CONFIG: scales})


def drawn_with(settings: object) -> list[object] | None:
    """The first pair of scales in the settings of a training."""
    sampling = settings.get("sampling") if isinstance(settings, Mapping) else None
    if not isinstance(sampling, Mapping):
        return None
    pairs = [sampling.get(name) for name in ("scales_txt", "scales_img")]
    return [each[0] for each in pairs if isinstance(each, list) and each]


def factor_of(parts: Parts) -> int:
    """Pixels to a latent cell, along one side."""
    return int(2 ** (len(parts.vae.config.block_out_channels) - 1))


def as_tree(config: Mapping[str, object] | str | Path) -> dict[str, object]:
    """Reads a YAML file, or takes a mapping as it is."""
    if isinstance(config, Mapping):
        return dict(config)
    path = Path(config)
    tree = check_object(read_yaml(path), f"{path}", "settings by name")
    return check_object(resolved([tree], f"{path}"), f"{path}", "settings by name")


def compvis_heads(tree: Mapping[str, object]) -> Iterator[int]:
    """Every `num_heads` below a `unet_config`."""
    for key, value in tree.items():
        if not isinstance(value, Mapping):
            continue
        if key == "unet_config":
            heads = value.get("params", value).get(COMPVIS_HEADS)
            if heads is not None:
                yield int(heads)
        else:
            yield from compvis_heads(value)
