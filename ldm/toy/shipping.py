"""The work of `python -m ldm.toy.ship`; the command tells what it is for."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, get_args

import torch
from jaxtyping import Int
from torch import Tensor

from egogen.annotations import Annotations, read_metadata
from egogen.conversations import read_conversations
from egogen.errors import UserError
from egogen.layout import DESCRIPTION_KEY, FOLDERS, Layout, Split
from egogen.toy.palette import COLOURS
from egogen.toy.scene import KINDS
from ldm.checkpoints.source import load_parts, open_source, sizes_of
from ldm.checkpoints.stated_sizes import guidance_of, resolution_of
from ldm.checkpoints.writing import published_state, write_compact
from ldm.networks.architecture import TEXT, UNET, VAE
from ldm.networks.distilled import Distilled
from ldm.networks.scales import distilled_of
from ldm.networks.shapes import Architecture
from ldm.networks.text import make_tokenizer, tokenize
from ldm.toy.ship import ShipOptions

log = logging.getLogger(__name__)

TABLE = f"{TEXT}embeddings.token_embedding.weight"
FROZEN = "frozen.safetensors"
OF_LEGO = (UNET, "projection_img.", "projection_txt.", "self_attn_mix.")


def ship(options: ShipOptions) -> None:
    """Writes `frozen.safetensors`, `ip2p.safetensors` and a file for each LEGO.

    Raises:
        UserError: as many names as LEGOs are needed; a LEGO's frozen parts are not the editor's.
    """
    if len(options.names) != len(options.lego):
        raise UserError(
            f"--names {' '.join(options.names)}: expected one for each of {len(options.lego)} LEGOs"
        )
    editor = read_networks(options.editor)
    frozen = {name: value for name, value in editor.state.items() if name.startswith((VAE, TEXT))}
    ids = used_ids(list(texts_of(options.data_root, options.described)))
    shared = options.out / FROZEN
    write_compact(shared, frozen, editor.shape, editor.side, {TABLE: ids})
    log.info("%s: %d of %d words", shared, len(ids), len(frozen[TABLE]))
    for name, path in zip(("ip2p", *options.names), (options.editor, *options.lego), strict=True):
        read = read_networks(path)
        check_frozen(path, read.state, frozen)
        own = {key: value for key, value in read.state.items() if key.startswith(OF_LEGO)}
        goal = options.out / f"{name}.safetensors"
        write_compact(
            goal,
            own,
            read.shape,
            read.side,
            beside=[shared],
            distilled=read.distilled,
            guidance=read.guidance,
        )
        log.info("%s: %.1f MB", goal, goal.stat().st_size / 1e6)


class Networks(NamedTuple):
    """Weights by published name, and what a checkpoint states: sizes, side, distillation, guidance."""

    state: dict[str, Tensor]
    shape: Architecture
    side: int
    distilled: Distilled | None
    guidance: list[float] | None


def read_networks(path: Path) -> Networks:
    """Reads a checkpoint, the moving averages where there are some.

    Raises:
        UserError: it does not state the side of the frames that it draws.
    """
    source = open_source(path)
    parts, shape = load_parts(source), sizes_of(source)
    side = resolution_of(parts)
    if side is None:
        raise UserError(f"{path}: does not state a resolution; expected a file of our own trainings")
    return Networks(
        published_state(parts, shape), shape, side, distilled_of(parts.unet, f"{path}"), guidance_of(parts)
    )


def check_frozen(path: Path, state: dict[str, Tensor], frozen: dict[str, Tensor]) -> None:
    """Raises a `UserError` if a checkpoint's autoencoder or text encoder is not the one that is shared."""
    for name, value in frozen.items():
        if not torch.equal(state[name], value):
            raise UserError(f"{path}: {name} is not the editor's; expected a LEGO that was trained from it")


def texts_of(data_root: Path, described: Sequence[Path]) -> Iterator[str]:
    """All that is said about a toy world: labels, curated descriptions, captions, and what a VLLM said."""
    yield ""
    yield from (f"the {colour} {kind}" for colour in COLOURS for kind in KINDS)
    for dataset in FOLDERS:
        layout = Layout(data_root, dataset)
        for record in read_conversations(layout.conversations):
            yield from (turn.value for turn in record.conversations)
        for facts in read_metadata(layout.metadata).values():
            yield str((facts.model_extra or {}).get("description", ""))
        for split in get_args(Split):
            yield from texts_in(layout.annotations(split))
    for path in described:
        yield from texts_in(path)


def texts_in(path: Path) -> Iterator[str]:
    """Labels and descriptions of an annotation file."""
    for item in Annotations.read(path).items:
        yield from (item.action.text(key) or "" for key in ("action", DESCRIPTION_KEY))


def used_ids(texts: Sequence[str]) -> Int[Tensor, " n"]:
    """The ids of CLIP's tokens that texts use, in order; a text is read as the networks read it."""
    return tokenize(make_tokenizer(), sorted(set(texts))).unique()
