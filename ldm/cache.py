"""Latents and text embeddings computed once and kept on disk: training then skips the VAE and CLIP."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm
from transformers import CLIPTokenizer

from egogen.files import atomic_open
from egogen.layout import run_root
from egogen.manifest import claim, file_hash
from ldm.architecture import Parts
from ldm.data import EgoGenPairs, Sample
from ldm.text import embed

ARRAYS = ("source_latent", "target_moments", "text")
BATCH = 32


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
        item = self.pairs.items[index]
        sample: Sample = {"item": f"{item.clip}/{item.id}", "prompt": self.pairs.prompt(item)}
        rows = {name: torch.from_numpy(np.array(array[index])).float() for name, array in self.arrays.items()}
        sample.update(rows)  # type: ignore[typeddict-item]
        return self.pairs.with_features(sample, item)


@torch.no_grad()
def build_cache(pairs: EgoGenPairs, parts: Parts, tokenizer: CLIPTokenizer, start: Path) -> Path:
    """Encodes a split once; a finished cache of the same inputs is used again.

    Args:
        pairs: the split.
        parts: the networks that encode.
        tokenizer: CLIP's.
        start: the checkpoint they came from; its hash names the cache.

    Returns:
        A folder below `RUN_ROOT/cache` with one array per name in `ARRAYS`.
    """
    flips = pairs.config.flip > 0 and pairs.split == "train"
    settings = {
        "flips": flips,
        "checkpoint": file_hash(start),
        "annotations": file_hash(pairs.annotations.source),
        "frames": str(pairs.frames.resolve()),
        "resolution": pairs.config.resolution,
        "text_key": pairs.config.text_key,
        "pairs": len(pairs),
    }
    name = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
    folder = run_root() / "cache" / f"{pairs.config.dataset}_{pairs.split}_{name}"
    if (folder / "manifest.json").exists():
        claim(folder, settings)
        return folder
    rows: dict[str, list[np.ndarray]] = {key: [] for key in ARRAYS}
    for first in tqdm(range(0, len(pairs), BATCH), desc=f"encode {pairs.split}", unit="batch"):
        samples = [pairs[index] for index in range(first, min(first + BATCH, len(pairs)))]
        source = torch.stack([sample["source"] for sample in samples]).to(parts.vae.device)
        target = torch.stack([sample["target"] for sample in samples]).to(parts.vae.device)
        text = embed(parts.text_encoder, tokenizer, [sample["prompt"] for sample in samples])
        rows["source_latent"].append(encode(parts, source, flips, mode_only=True).cpu().numpy())
        rows["target_moments"].append(encode(parts, target, flips, mode_only=False).cpu().numpy())
        rows["text"].append(text.half().cpu().numpy())
    for key, parts_of_it in rows.items():
        with atomic_open(folder / f"{key}.npy") as file:
            np.save(file, np.concatenate(parts_of_it))
    claim(folder, settings)  # last: its presence says that the arrays are whole
    return folder


def encode(
    parts: Parts, frames: Float[Tensor, "b 3 r r"], flips: bool, mode_only: bool
) -> Float[Tensor, "b views c h w"]:
    """Posterior mode, or mean and standard deviation, of frames and, with `flips`, of their mirror images."""
    found = []
    for view in (frames, frames.flip(-1)) if flips else (frames,):
        posterior = parts.vae.encode(view).latent_dist
        found.append(posterior.mode() if mode_only else torch.cat([posterior.mean, posterior.std], dim=1))
    return torch.stack(found, dim=1)
