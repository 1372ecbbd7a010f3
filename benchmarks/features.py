"""How fast features are read from each store, by the data loader, with a cold and with a warm page cache.

    python benchmarks/features.py                              # some minutes, 2.5 GB of disk
    python benchmarks/features.py --pairs 2000 --workers 8 --dir /scratch --device cuda

Frames are 455 x 256 JPEGs of the toy world, features have the published sizes. Samples are read in random
order; the best of three passes counts. "cold" drops the files from the page cache before each one
(posix_fadvise); what a disk or a host caches below that stays. What is left to the device is timed apart: the
projector for compact stores, and CLIP for online ones on a GPU.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from transformers import CLIPVisionConfig, CLIPVisionModel

from egogen.annotations import Annotations
from egogen.features import write_feature
from egogen.features.projector import Projector
from egogen.features.store_conversion import Wish, convert
from egogen.files import write_json
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


class Features(Dataset[dict[str, Any]]):
    """What a store gives for each pair, without frames and texts."""

    def __init__(self, files: SplitFiles) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files.items)

    def __getitem__(self, index: int) -> dict[str, Any]:
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
        began = time.perf_counter()
        row_type = "int8" if "int8" in name else "float16"
        convert(root / "npy", root / name, Wish(store, projector, root / "clip", row_type))  # type: ignore[arg-type]
        if name == "compact":
            rate = 2 * pairs / (time.perf_counter() - began)
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
    began, count = time.perf_counter(), 0
    for batch in loader:
        count += len(batch["item"])
    return count / (time.perf_counter() - began)


def device_rate(features: Features, device: str) -> float:
    """Samples a second of what is left to the device, without the loader."""
    loader = DataLoader(features, BATCH)
    batch = {
        name: value.to(device) if isinstance(value, torch.Tensor) else value
        for name, value in next(iter(loader)).items()
    }
    times = []
    for _ in range(5):
        began = time.perf_counter()
        complete(batch, features.files.visions)["vllm_image"].sum().item()
        times.append(time.perf_counter() - began)
    return BATCH / min(times)


def main() -> None:
    """Measures each store, prints a table, writes JSON."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--pairs", type=int, default=256)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--dir", type=Path, help="where to make the files; the system's temporary folder")
    parser.add_argument("--device", default="cpu", help="cpu or cuda: where the projector (and CLIP) run")
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()
    results: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory(dir=args.dir) as name:
        root = Path(name)
        make_tree(root, args.pairs)
        rate = make_stores(root, args.pairs, whole_clip=args.device != "cpu")
        print(f"convert npy to compact: {rate:.1f} features/s")
        for way, store in STORES.items():
            place = features_root(root / way, "ego4d", "train", "llava_image").parent  # type: ignore[arg-type]
            config = DataConfig(root=str(root), features=str(root / way), text_key="action")

            def make(config: DataConfig = config, store: str = store) -> Features:
                return Features(SplitFiles(config, "train", WIDTH, store))

            folders = list(place.iterdir())
            files = [*place.rglob("*.npy"), *(path for folder in folders for path in shard_paths(folder))]
            stored = sum(path.stat().st_size for path in files)
            line: dict[str, object] = {"store": way, "files": len(files), "bytes": stored}
            for workers in (0, args.workers):
                for state in ("cold", "warm"):
                    rates = []
                    for _ in range(3):
                        if state == "cold":
                            drop_from_cache(root)
                        rates.append(samples_per_second(make, workers))
                    line[f"{state}, {workers} workers"] = max(rates)
            if store == "compact" or (store == "online" and args.device != "cpu"):
                line[f"on {args.device}"] = device_rate(make(), args.device)
            results.append(line)
            told = [f"{key}: {value:.1f}/s" for key, value in line.items() if isinstance(value, float)]
            print(f"{way:20} {stored / args.pairs / 1e6:6.2f} MB/sample  " + "  ".join(told), flush=True)
    if args.json:
        write_json(args.json, results)


if __name__ == "__main__":
    main()
