"""Sizes that a user states in part: the rest is read off the checkpoint's tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from egogen.annotations import check_object
from egogen.errors import UserError, reason
from egogen.files import read_yaml
from ldm.checkpoints.safe_reading import read
from ldm.checkpoints.source import sizes
from ldm.networks.architecture import UNET_HEADS, Architecture

# What a CompVis configuration calls the UNet's attention heads.
COMPVIS_HEADS = "num_heads"


def complete(ckpt: Path, config: Architecture | Mapping[str, Any] | str | Path | None) -> Architecture | None:
    """Sizes for a checkpoint: as the configuration says, and else as the checkpoint's tensors tell.

    Args:
        ckpt: a single file, or a folder (which states its sizes itself).
        config: all sizes; or a YAML file or mapping with some of them, either ours (`unet: {heads: 4}`, also
            below `model.architecture`) or a CompVis one (`unet_config.params.num_heads`).

    Raises:
        UserError: the configuration is unreadable, or has sizes that do not exist.
    """
    if config is None or isinstance(config, Architecture) or ckpt.is_dir():
        return config if isinstance(config, Architecture) else None
    tree = as_tree(config)
    content = read(ckpt)
    heads = next(compvis_heads(tree), UNET_HEADS)
    model = tree.get("model")
    stated = model.get("architecture") if isinstance(model, Mapping) else None
    names = [field.name for field in fields(Architecture)]
    stated = {name: tree[name] for name in names if name in tree} if stated is None else stated
    return sizes(content, ckpt, heads, stated)


def as_tree(config: Mapping[str, Any] | str | Path) -> dict[str, Any]:
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


def compvis_heads(tree: Mapping[str, Any]) -> Iterator[int]:
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
