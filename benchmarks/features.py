"""How fast features are read from each store, by the data loader, with a cold and with a warm page cache.

    python benchmarks/features.py                              # some minutes, 2.5 GB of disk
    python benchmarks/features.py --pairs 2000 --workers 8 --dir /scratch --device cuda

Frames are 455 x 256 JPEGs of the toy world, features have the published sizes. Samples are read in random
order; the best of three passes counts. "cold" drops the files from the page cache before each one
(posix_fadvise); what a disk or a host caches below that stays. What is left to the device is timed apart: the
projector for compact stores, and CLIP for online ones on a GPU.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from measuring import LLM_WIDTH, VIT_L, VIT_WIDTH, OnDevice, SpeedTable, clock, fastest, run, write_split
from torch.utils.data import DataLoader
from transformers import CLIPVisionConfig, CLIPVisionModel

from egogen.cli import flag
from egogen.features import IMAGE_TOKENS
from egogen.features.__main__ import main as features
from egogen.features.projector import Projector
from egogen.layout import features_root, shard_paths
from egogen.walks import walk_files
from ldm.config.sections import DataConfig
from ldm.data.image_features import complete
from ldm.data.pairs import SplitFiles

BATCH = 16
STORES = {"npy": "npy", "compact": "compact", "compact, text int8": "compact", "online": "online"}


@dataclass(frozen=True)
class StoreSpeed(OnDevice):
    """The flags."""

    device: str = flag("cpu or cuda: where the projector (and CLIP) run", default="cpu")
    pairs: int = flag("in the made-up split", type=int, default=256)
    workers: int = flag("of the second figure of each state", type=int, default=2)
    dir: Path | None = flag("where to make the files; the system's temporary folder", type=Path)


class Features(SplitFiles):
    """What a store gives for each pair, without frames and texts."""

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict[str, object]:
        item = self.items[index]
        return self.features.read(item, lambda: self.frames.read(item.action.image_0))


def make_stores(root: Path, pairs: int, whole_clip: bool) -> float:
    """Makes a train split and its features in all stores; returns features a second of npy to compact."""
    rng, rate = np.random.default_rng(0), 0.0
    weight = rng.normal(size=(LLM_WIDTH, VIT_WIDTH)).astype(np.float32) / VIT_WIDTH**0.5
    projector = Projector(weight, rng.normal(size=LLM_WIDTH).astype(np.float32))
    projector.write(root / "projector.safetensors")

    def image_feature() -> np.ndarray:
        return projector.features(rng.normal(size=(IMAGE_TOKENS, VIT_WIDTH)))

    write_split(root, pairs, root / "npy", rng, image_feature)
    size = {} if whole_clip else {"num_hidden_layers": 2}  # the loader reads only its settings
    CLIPVisionModel(CLIPVisionConfig(**VIT_L | size)).save_pretrained(root / "clip")
    for name, store in list(STORES.items())[1:]:
        words = [root / "npy", root / name, "--to", store, "--projector", root / "projector.safetensors"]
        words += ["--clip", root / "clip", "--text-type", "int8" if "int8" in name else "float16"]
        took = clock(lambda words=words: features(["convert", *map(str, words)])).seconds
        rate = 2 * pairs / took if name == "compact" else rate
    return rate


def drop_from_cache(root: Path) -> None:
    """Lets the system forget the content of all files below a folder."""
    os.sync()
    for path in walk_files(root):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def device_rate(features: Features, device: str) -> float:
    """Samples a second of what is left to the device, without the loader."""
    loader = DataLoader(features, BATCH)
    batch = next(iter(loader))
    batch |= {name: value.to(device) for name, value in batch.items() if isinstance(value, torch.Tensor)}
    return BATCH / fastest(lambda: complete(batch, features.visions)["vllm_image"].sum().item(), 5)


def best_of_three(make: Callable[[], Features], root: Path, workers: int) -> dict[str, float]:
    """Samples a second of the fastest pass: without and with workers, from a cold and a warm page cache."""

    def one_pass(count: int) -> float:
        """In random order, by a loader and a store that were opened for it."""
        generator = torch.Generator().manual_seed(0)
        loader = DataLoader(make(), BATCH, shuffle=True, num_workers=count, generator=generator)
        found = clock(lambda: sum(len(batch["vllm_text"]) for batch in loader))
        return found.result / found.seconds

    best = dict[str, float]()
    for count in dict.fromkeys((0, workers)):
        for state in ("cold", "warm"):
            way = f"{state}, {count} workers"
            for _ in range(3):
                if state == "cold":
                    drop_from_cache(root)
                best[way] = max(best.get(way, 0.0), one_pass(count))
    return best


def measure(options: StoreSpeed, root: Path) -> dict[str, SpeedTable]:
    """Measures each store."""
    rate = make_stores(root, options.pairs, whole_clip=options.on_gpu)
    print(f"convert npy to compact: {rate:.1f} features/s; samples/s of the stores:")
    table = SpeedTable(width=18)
    for way, store in STORES.items():
        config = DataConfig(root=str(root), features=str(root / way), text_key="action")
        make = partial(Features, config, "train", LLM_WIDTH, store)
        place = features_root(root / way, "ego4d", "train", "llava_image").parent
        shards = [path for folder in place.iterdir() for path in shard_paths(folder)]
        files = [*walk_files(place, "*.npy"), *shards]
        stored = sum(path.stat().st_size for path in files)
        left = store == "compact" or (store == "online" and options.on_gpu)
        table.add(
            store=way, files=len(files), bytes=stored, mb_per_sample=stored / options.pairs / 1e6,
            on_device=device_rate(make(), options.device) if left else None,
            **best_of_three(make, root, options.workers),
        )  # fmt: skip
    return {"stores": table}


if __name__ == "__main__":
    run(measure, StoreSpeed, __doc__)
