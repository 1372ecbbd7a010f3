"""Networks into published single files (`.ckpt`, `.safetensors`)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from egogen.files import atomic_open
from ldm.checkpoints.published_names import POSITION_IDS, published_names
from ldm.checkpoints.safe_reading import ARCHITECTURE
from ldm.diffusion.schedule import training_schedule
from ldm.networks.architecture import Parts
from ldm.networks.shapes import Architecture


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
    content: dict[str, object] = {"state_dict": dict(state)}
    if shape is not None:
        content[ARCHITECTURE] = asdict(shape)
    with atomic_open(path) as file:
        torch.save(content, file)
