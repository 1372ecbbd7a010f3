"""How fast training pairs are read: single files, tar files, cached latents; with and without loader workers.

    python benchmarks/ldm_data.py                    # a minute or two
    python benchmarks/ldm_data.py --workers 8 --pairs 2000

Frames are 455 x 256 JPEGs of the toy world, features have the published width. The files are in the system's
cache after the first pass, so this measures decoding and copying, not the disk.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from egogen.annotations import Annotations
from egogen.features import write_feature
from egogen.files import write_json
from egogen.frames import pack
from egogen.layout import Layout, feature_path, features_root, tar_folder
from egogen.toy.world import write_world
from ldm.config.sections import DataConfig
from ldm.data.latents import CachedLatents, build_cache
from ldm.data.pairs import EgoGenPairs, Sample, SplitFiles
from ldm.networks.architecture import Architecture, TextShape, UNetShape, VAEShape, build
from ldm.networks.text import make_tokenizer

WIDTH = 5120
# The cache holds what the true networks give; here small ones of the same shapes of output make it.
SHAPE = Architecture(
    unet=UNetShape(channels=[32, 64], attention=[False, True], blocks=1, groups=8),
    vae=VAEShape(channels=[8, 8, 8, 8], blocks=1, groups=8),
    text=TextShape(width=768, layers=1, heads=12, intermediate=64),
)


def make_data(root: Path, pairs: int) -> DataConfig:
    """Frames, labels and features of a train split."""
    write_world(root, pairs, 1, size=256, workers=os.cpu_count() or 1)
    layout = Layout(root, "ego4d")
    annotations = Annotations.read(layout.annotations("train"))
    rng = np.random.default_rng(0)
    for item in annotations:
        for kind, tokens in (("llava_image", 256), ("llava_text", 100)):
            folder = features_root(root / "features", "ego4d", "train", kind)
            write_feature(feature_path(folder, item.action.image_0), rng.normal(size=(tokens, WIDTH)))
    names = [name for item in annotations for name in (item.action.image_0, item.action.image_1)]
    pack(layout.frames("train"), names, tar_folder(root / "tars", "ego4d", "train"))
    return DataConfig(root=str(root), features=str(root / "features"), text_key="action", flip=0.5, workers=0)


def pairs_per_second(dataset: Dataset[Sample], workers: int) -> float:
    """Reads everything once to warm up, then once by the clock."""
    loader = DataLoader(dataset, batch_size=16, num_workers=workers, persistent_workers=workers > 0)
    count = 0
    for repeat in range(2):
        began, count = time.perf_counter(), 0
        for batch in loader:
            count += len(batch["prompt"])
        if repeat:
            return count / (time.perf_counter() - began)
    raise AssertionError


def main() -> None:
    """Measures each way, prints a table, writes JSON."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--pairs", type=int, default=128)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        config = make_data(root, args.pairs)
        os.environ["RUN_ROOT"] = str(root / "runs")
        torch.manual_seed(0)
        (root / "start.ckpt").write_bytes(b"made up")
        for features in (False, True):
            width = WIDTH if features else None
            files = SplitFiles(config, "train", width)
            tars = SplitFiles(replace(config, frame_tars=str(root / "tars")), "train", width)
            folder = build_cache(files, build(SHAPE), make_tokenizer(), root / "start.ckpt")
            ways = {
                "single files": EgoGenPairs([files]),
                "tar files": EgoGenPairs([tars]),
                "cached latents": EgoGenPairs([files], latents=[CachedLatents(folder)]),
            }
            print(f"{'with' if features else 'without'} features of width {WIDTH}, pairs/s")
            for way, dataset in ways.items():
                for workers in (0, args.workers):
                    rate = pairs_per_second(dataset, workers)
                    results.append(
                        {"way": way, "features": features, "workers": workers, "pairs_per_second": rate}
                    )
                    print(f"  {way:16} {workers:2d} workers {rate:9.1f}", flush=True)
    if args.json:
        write_json(args.json, results)


if __name__ == "__main__":
    main()
