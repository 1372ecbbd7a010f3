"""Latents and text embeddings computed once and kept on disk: training then skips the VAE and CLIP."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from contextlib import suppress
from copy import copy
from functools import cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm
from transformers import CLIPTokenizer

from egogen.disk import reserve, writing
from egogen.errors import UserError
from egogen.features.npy import mapped
from egogen.files import atomic_folder
from egogen.layout import run_root
from egogen.locks import hold
from egogen.manifest import NAME, checkpoint_hash, claim, file_hash
from ldm.data.pairs import EgoGenPairs, Sample
from ldm.networks.architecture import Parts
from ldm.networks.text import embed

ARRAYS = ("source_latent", "target_moments", "text")
BATCH = 32
log = logging.getLogger(__name__)


class CachedPairs(Dataset[Sample]):
    """The pairs of `EgoGenPairs` with latents (and mirrored ones) and text embeddings from disk.

    Args:
        pairs: the data set behind it; still gives names, prompts and features.
        folder: what `build_cache` returned.
    """

    def __init__(self, pairs: EgoGenPairs, folder: Path) -> None:
        self.pairs = pairs
        self.arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in ARRAYS}

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        return self.sample(index)

    def name(self, index: int) -> str:
        """Id of a pair."""
        return self.pairs.name(index)

    def sample(self, index: int, mirrored: bool = False) -> Sample:
        """One pair with its latents; a cache built without flips holds no mirrored ones."""
        item = self.pairs.items[index]
        sample: Sample = {
            "item": self.name(index),
            "prompt": self.pairs.prompt(item),
            "source_latent": self.row("source_latent", index, int(mirrored)),
            "target_moments": self.row("target_moments", index, int(mirrored)),
            "text": self.row("text", index),
        }
        return self.pairs.with_features(sample, item)

    def row(self, name: str, *place: int) -> Tensor:
        """One entry of an array, as float32."""
        return torch.from_numpy(np.array(self.arrays[name][place], dtype=np.float32))


@torch.no_grad()
def build_cache(
    pairs: EgoGenPairs,
    parts: Parts,
    tokenizer: CLIPTokenizer,
    start: Path,
    device: torch.device | str = "cpu",
) -> Path:
    """Encodes a split once; a finished cache of the same inputs is used again.

    Everything is kept in float16: at the published sizes 16 KB of target moments and 8 KB of source latent a
    pair (twice with flips), and 118 KB of text embedding.

    Args:
        pairs: the split.
        parts: the networks that encode; they are back on their device afterwards.
        tokenizer: CLIP's.
        start: the checkpoint they came from; its hash names the cache.
        device: where to encode.

    Returns:
        A folder below `RUN_ROOT/cache` with one array per name in `ARRAYS`.
    """
    flips = pairs.config.flip > 0 and pairs.split == "train"
    settings = {
        "flips": flips,
        "checkpoint": start_hash(start),
        "annotations": file_hash(pairs.annotations.source),
        "frames": str(pairs.frames.place.resolve()),
        "resolution": pairs.config.resolution,
        "text_key": pairs.config.text_key,
        "pairs": len(pairs),
    }
    name = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
    folder = run_root() / "cache" / f"{pairs.config.dataset}_{pairs.split}_{name}"
    with hold(folder, "encoding", wait=True):
        if not is_built(folder, len(pairs)):
            with atomic_folder(folder) as part, writing(folder):
                fill(part, pairs, parts, tokenizer, device)
                claim(part, settings)
    claim(folder, settings)
    return folder


def is_built(folder: Path, pairs: int) -> bool:
    """Whether a cache holds all pairs, by its arrays' headers and sizes; a damaged one is removed."""
    if not folder.exists():
        return False
    with suppress(UserError):
        if (folder / NAME).exists() and all(len(mapped(folder / f"{name}.npy")) == pairs for name in ARRAYS):
            return True
    log.warning("%s: damaged; it is built anew", folder)
    shutil.rmtree(folder)
    return False


def fill(
    folder: Path, pairs: EgoGenPairs, parts: Parts, tokenizer: CLIPTokenizer, device: torch.device | str
) -> None:
    """Encodes all pairs into the arrays of a folder."""
    before = parts.vae.device
    for network in (parts.vae, parts.text_encoder):
        nn.Module.to(network, device)
    flips = pairs.config.flip > 0 and pairs.split == "train"
    plain = copy(pairs)
    plain.features = None  # those of stage 1 are not encoded
    loader = DataLoader(plain, BATCH, num_workers=pairs.config.workers)
    arrays: dict[str, np.memmap] = {}
    with tqdm(total=len(pairs), desc=f"encode {pairs.split}", unit="pair") as bar:
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
                        path, "w+", np.float16, (len(pairs), *values.shape[1:])
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
