"""Latents and text embeddings computed once and kept on disk: training then skips the VAE and CLIP."""

from __future__ import annotations

import hashlib
import json
import logging
from contextlib import suppress
from copy import copy
from functools import cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import CLIPTokenizer

from egogen.disk import reserve, writing
from egogen.errors import UserError
from egogen.features.npy import mapped
from egogen.files import atomic_folder, remove_folder
from egogen.layout import run_root
from egogen.locks import hold
from egogen.manifest import NAME, checkpoint_hash, claim, file_hash
from egogen.progress import Progress
from ldm.conditioner import embed
from ldm.data.pairs import EgoGenPairs, SplitFiles
from ldm.networks.architecture import Parts

ARRAYS = ("source_latent", "target_moments", "text")
BATCH = 32
log = logging.getLogger(__name__)


class CachedLatents:
    """Latents of a split (and mirrored ones) and its text embeddings, from what `build_cache` returned."""

    def __init__(self, folder: Path) -> None:
        self.arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in ARRAYS}

    def __call__(self, row: int, mirrored: bool) -> dict[str, Tensor]:
        """What stands in for a pair's frames and text, as float32; without flips none is mirrored."""
        places = {name: (row, int(mirrored)) for name in ARRAYS} | {"text": (row,)}
        return {
            name: torch.from_numpy(np.array(self.arrays[name][place], dtype=np.float32))
            for name, place in places.items()
        }


@torch.no_grad()
def build_cache(
    files: SplitFiles,
    parts: Parts,
    tokenizer: CLIPTokenizer,
    start: Path,
    device: torch.device | str = "cpu",
) -> Path:
    """Encodes a split once; a finished cache of the same inputs is used again.

    Everything is kept in float16: at the published sizes 16 KB of target moments and 8 KB of source latent a
    pair (twice with flips), and 118 KB of text embedding.

    The networks are back on their own device afterwards; the hash of the checkpoint names the cache.

    Returns:
        A folder below `RUN_ROOT/cache` with one array per name in `ARRAYS`.
    """
    flips = files.config.flip > 0 and files.split == "train"
    settings = {
        "flips": flips,
        "checkpoint": start_hash(start),
        "annotations": file_hash(files.annotations.source),
        "frames": str(files.frames.place.resolve()),
        "resolution": files.config.resolution,
        "text_key": files.config.text_key,
        "pairs": len(files.items),
    }
    name = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
    folder = run_root() / "cache" / f"{files.config.dataset}_{files.split}_{name}"
    with hold(folder, "encoding", wait=True):
        if not is_built(folder, len(files.items)):
            with atomic_folder(folder) as part, writing(folder):
                fill(part, files, parts, tokenizer, device)
                claim(part, settings)
    claim(folder, settings)
    return folder


def is_built(folder: Path, pairs: int) -> bool:
    """Whether a cache holds all pairs, by its arrays' headers and sizes; a damaged one is removed."""
    if not folder.exists() and not folder.is_symlink():
        return False
    with suppress(UserError):
        if (folder / NAME).exists() and all(len(mapped(folder / f"{name}.npy")) == pairs for name in ARRAYS):
            return True
    log.warning("%s: damaged; it is built anew", folder)
    remove_folder(folder)
    return False


def fill(
    folder: Path, files: SplitFiles, parts: Parts, tokenizer: CLIPTokenizer, device: torch.device | str
) -> None:
    """Encodes all pairs into the arrays of a folder."""
    before = parts.vae.device
    for network in (parts.vae, parts.text_encoder):
        nn.Module.to(network, device)
    flips = files.config.flip > 0 and files.split == "train"
    plain = copy(files)
    plain.features = None  # those of stage 1 are not encoded
    loader = DataLoader(EgoGenPairs([plain]), BATCH, num_workers=files.config.workers)
    arrays: dict[str, np.memmap] = {}
    with Progress(total=len(files.items), desc=f"encode {files.split}", unit="pair") as bar:
        for batch in loader:
            rows = {
                "source_latent": encode(parts, batch["source"].to(device), flips, mode_only=True),
                "target_moments": encode(parts, batch["target"].to(device), flips, mode_only=False),
                "text": embed(parts.text_encoder, tokenizer, batch["prompt"]),
            }
            for key, values in rows.items():
                if key not in arrays:
                    path = folder / f"{key}.npy"
                    arrays[key] = np.lib.format.open_memmap(
                        path, "w+", np.float16, (len(files.items), *values.shape[1:])
                    )
                    reserve(path)
                arrays[key][bar.n : bar.n + len(values)] = values.half().cpu().numpy()
            bar.update(len(batch["prompt"]))
    for array in arrays.values():
        array.flush()
    for network in (parts.vae, parts.text_encoder):
        nn.Module.to(network, before)


@cache
def start_hash(start: Path) -> str:
    """SHA-256 of the checkpoint that training starts from, computed once a process."""
    return checkpoint_hash(start)


def encode(
    parts: Parts, frames: Float[Tensor, "b 3 r r"], flips: bool, mode_only: bool
) -> Float[Tensor, "b views c h w"]:
    """Posterior mode, or mean and standard deviation, of frames and, with `flips`, of their mirror images."""
    found = []
    for view in (frames, frames.flip(-1)) if flips else (frames,):
        posterior = parts.vae.encode(view).latent_dist
        found.append(posterior.mode() if mode_only else torch.cat([posterior.mean, posterior.std], dim=1))
    return torch.stack(found, dim=1)
