"""Networks into published single files (`.ckpt`, `.safetensors`), whole or compact."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from jaxtyping import Int
from safetensors.torch import save_file
from torch import Tensor

from egogen.errors import UserError
from egogen.files import atomic_open
from egogen.manifest import file_hash
from ldm.checkpoints.compact_files import BESIDE, ROWS, STORED
from ldm.checkpoints.published_names import POSITION_IDS, SCALE_LAYER, published_names
from ldm.checkpoints.safe_reading import ARCHITECTURE, GUIDANCE, RESOLUTION
from ldm.diffusion.schedule import training_schedule
from ldm.networks.architecture import Parts
from ldm.networks.distilled import DISTILLED, UNBAKED, Distilled
from ldm.networks.shapes import Architecture

SUFFIXES = (".ckpt", ".safetensors")


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


def write(
    path: Path,
    state: Mapping[str, Tensor],
    shape: Architecture | None = None,
    resolution: int | None = None,
    distilled: Distilled | None = None,
    guidance: list[float] | None = None,
) -> None:
    """Writes a published single file atomically, with the sizes that its tensors do not tell.

    Args:
        path: its suffix chooses the format, `.safetensors` or torch's own.
        state: tensors by published name.
        shape: the sizes.
        resolution: side in pixels of the squares that the networks were trained to draw.
        distilled: what the networks were distilled for.
        guidance: s_T and s_I that they are drawn with where nobody says others.

    Raises:
        UserError: the UNet takes guidance scales, for which the published format has no place.
    """
    if SCALE_LAYER in state:
        raise UserError(f"{path}: {UNBAKED}")
    named = {
        ARCHITECTURE: None if shape is None else asdict(shape),
        RESOLUTION: resolution,
        DISTILLED: None if distilled is None else asdict(distilled),
        GUIDANCE: guidance,
    }
    stated = {name: value for name, value in named.items() if value is not None}
    if path.suffix.lower() == ".safetensors":
        with atomic_open(path) as file:
            plain = {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
            header = {name: json.dumps(value) for name, value in stated.items()}
            save_file(plain, file.name, metadata={"format": "pt", **header})
        return
    with atomic_open(path) as file:
        torch.save({"state_dict": dict(state), **stated}, file)


def write_compact(
    path: Path,
    state: Mapping[str, Tensor],
    shape: Architecture,
    resolution: int,
    rows: Mapping[str, Int[Tensor, " n"]] | None = None,
    beside: Sequence[Path] = (),
    distilled: Distilled | None = None,
    guidance: list[float] | None = None,
) -> None:
    """Writes tensors in 16 bits, as `ldm.checkpoints.compact_files` reads them.

    Args:
        path: the file; it appears whole.
        state: tensors by published name.
        shape: sizes of the networks.
        resolution: side in pixels of the squares that they were trained to draw.
        rows: of some tables, the rows that are used.
        beside: finished compact files in the same folder that hold the rest of the tensors.
        distilled: what the networks were distilled for.
        guidance: s_T and s_I that they are drawn with where nobody says others.

    Raises:
        UserError: a value is too large for 16 bits.
    """
    rows = rows or {}
    stored: dict[str, Tensor] = {}
    for name, value in state.items():
        used = rows.get(name)
        if used is not None:
            stored[name + STORED] = used.to(torch.int32)
        half = (value if used is None else value[used]).detach().cpu().half().contiguous().clone()
        if not half.isfinite().all():
            raise UserError(f"{path}: tensor {name!r} holds values that 16 bits cannot; expected |x| < 65504")
        stored[name] = half
    header = {
        "format": "pt",
        ARCHITECTURE: json.dumps(asdict(shape)),
        RESOLUTION: json.dumps(resolution),
        ROWS: json.dumps({name: len(state[name]) for name in rows}),
        BESIDE: json.dumps({other.name: file_hash(other) for other in beside}),
        **({} if distilled is None else {DISTILLED: json.dumps(asdict(distilled))}),
        **({} if guidance is None else {GUIDANCE: json.dumps(guidance)}),
    }
    with atomic_open(path) as file:
        save_file(stored, file.name, metadata=header)
