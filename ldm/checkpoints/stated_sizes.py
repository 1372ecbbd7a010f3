"""Sizes that a user states in part: the rest is read off the checkpoint's tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from egogen.annotations import check_object
from egogen.errors import UserError, reason
from egogen.files import read_yaml
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


def as_tree(config: Mapping[str, object] | str | Path) -> dict[str, object]:
    """Reads a YAML file, or takes a mapping as it is."""
    if isinstance(config, Mapping):
        return dict(config)
    path = Path(config)
    tree = check_object(read_yaml(path), f"{path}", "settings by name")
    try:
        resolved = OmegaConf.to_container(OmegaConf.create(tree), resolve=True)
    except OmegaConfBaseException as error:
        raise UserError(f"{path}: {reason(error)}") from None
    return check_object(resolved, f"{path}", "settings by name")


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
