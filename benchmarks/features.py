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
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from measuring import OnDevice, SpeedTable, clock, fastest, read_flags, report
from torch.utils.data import DataLoader, Dataset
from transformers import CLIPVisionConfig, CLIPVisionModel

from egogen.annotations import Annotations
from egogen.cli import flag
from egogen.features import write_feature
from egogen.features.__main__ import main as features
from egogen.features.projector import Projector
from egogen.layout import Layout, feature_path, features_root, shard_paths
from egogen.toy.world import write_world
from ldm.config.sections import DataConfig
from ldm.data.image_features import complete
from ldm.data.pairs import SplitFiles

WIDTH, PATCH_WIDTH, TOKENS = 5120, 1024, 100
BATCH = 16
STORES = {"npy": "npy", "compact": "compact", "compact, text int8": "compact", "online": "online"}
VIT_L = {
    "hidden_size": PATCH_WIDTH, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
    "image_size": 224, "patch_size": 14,
}  # fmt: skip


@dataclass(frozen=True)
class StoreSpeed(OnDevice):
    """The flags."""

    device: str = flag("cpu or cuda: where the projector (and CLIP) run", default="cpu")
    pairs: int = flag("in the made-up split", type=int, default=256)
    workers: int = flag("of the second figure of each state", type=int, default=2)
    dir: Path | None = flag("where to make the files; the system's temporary folder", type=Path)


class Features(Dataset[dict[str, object]]):
    """What a store gives for each pair, without frames and texts."""

    def __init__(self, files: SplitFiles) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files.items)

    def __getitem__(self, index: int) -> dict[str, object]:
        item, features = self.files.items[index], self.files.features
        assert features is not None
        return features.read(item, lambda: self.files.frames.read(item.action.image_0))


def make_tree(root: Path, pairs: int) -> None:
    """Frames and the published tree of features of a train split."""
    write_world(root, pairs, 1, size=256, workers=os.cpu_count() or 1)
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(WIDTH, PATCH_WIDTH)).astype(np.float32) / PATCH_WIDTH**0.5
    projector = Projector(weight, rng.normal(size=WIDTH).astype(np.float32))
    projector.write(root / "mm_projector.safetensors")
    for item in Annotations.read(Layout(root, "ego4d").annotations("train")):
        patches = rng.normal(size=(256, PATCH_WIDTH)).astype(np.float32)
        texts = rng.normal(size=(TOKENS, WIDTH)).astype(np.float32)
        for kind, values in (("llava_image", projector.features(patches)), ("llava_text", texts)):
            folder = features_root(root / "npy", "ego4d", "train", kind)  # type: ignore[arg-type]
            write_feature(feature_path(folder, item.action.image_0), values)


def make_stores(root: Path, pairs: int, whole_clip: bool) -> float:
    """Converts the tree to the other stores; returns features a second of the compact one."""
    size = {} if whole_clip else {"num_hidden_layers": 2}  # the loader reads only its settings
    CLIPVisionModel(CLIPVisionConfig(**VIT_L | size)).save_pretrained(root / "clip")
    projector, rate = root / "mm_projector.safetensors", 0.0
    for name, store in STORES.items():
        if name == "npy":
            continue
        row_type = "int8" if "int8" in name else "float16"
        words = [root / "npy", root / name, "--to", store, "--text-type", row_type, "--projector", projector]
        words = ["convert", *map(str, [*words, "--clip", root / "clip"])]
        took = clock(lambda words=words: features(words)).seconds
        if name == "compact":
            rate = 2 * pairs / took
    return rate


def drop_from_cache(root: Path) -> None:
    """Lets the system forget the content of all files below a folder."""
    os.sync()
    for path in root.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def samples_per_second(make: Callable[[], Features], workers: int) -> float:
    """One pass in random order, by a loader and a store that were opened for it."""
    generator = torch.Generator().manual_seed(0)
    loader = DataLoader(make(), BATCH, shuffle=True, num_workers=workers, generator=generator)
    found = clock(lambda: sum(len(batch["vllm_text"]) for batch in loader))
    return found.result / found.seconds


def device_rate(features: Features, device: str) -> float:
    """Samples a second of what is left to the device, without the loader."""
    loader = DataLoader(features, BATCH)
    batch = {
        name: value.to(device) if isinstance(value, torch.Tensor) else value
        for name, value in next(iter(loader)).items()
    }
    return BATCH / fastest(lambda: complete(batch, features.files.visions)["vllm_image"].sum().item(), 5)


def best_of_three(make: Callable[[], Features], root: Path, workers: int) -> dict[str, float]:
    """Samples a second of the fastest pass: without and with workers, from a cold and a warm page cache."""
    best = {}
    for count in dict.fromkeys((0, workers)):
        for state in ("cold", "warm"):
            rates = []
            for _ in range(3):
                if state == "cold":
                    drop_from_cache(root)
                rates.append(samples_per_second(make, count))
            best[f"{state}, {count} workers"] = max(rates)
    return best


def main() -> None:
    """Measures each store."""
    options = read_flags(StoreSpeed, "features", __doc__)
    with tempfile.TemporaryDirectory(dir=options.dir) as name:
        root = Path(name)
        make_tree(root, options.pairs)
        rate = make_stores(root, options.pairs, whole_clip=options.on_gpu)
        print(f"convert npy to compact: {rate:.1f} features/s; samples/s of the stores:")
        table = SpeedTable(width=18)
        for way, store in STORES.items():
            place = features_root(root / way, "ego4d", "train", "llava_image").parent  # type: ignore[arg-type]
            config = DataConfig(root=str(root), features=str(root / way), text_key="action")

            def make(config: DataConfig = config, store: str = store) -> Features:
                return Features(SplitFiles(config, "train", WIDTH, store))

            files = [
                *place.rglob("*.npy"),
                *(path for folder in place.iterdir() for path in shard_paths(folder)),
            ]
            stored = sum(path.stat().st_size for path in files)
            left = store == "compact" or (store == "online" and options.on_gpu)
            table.add(
                store=way, files=len(files), bytes=stored, mb_per_sample=stored / options.pairs / 1e6,
                on_device=device_rate(make(), options.device) if left else None,
                **best_of_three(make, root, options.workers),
            )  # fmt: skip
    report(options, stores=table.rows)


if __name__ == "__main__":
    main()
