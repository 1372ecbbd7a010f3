"""How fast training pairs are read: single files, tar files, cached latents; with and without loader workers.

    python benchmarks/ldm_data.py                    # a minute or two
    python benchmarks/ldm_data.py --workers 8 --pairs 2000

Frames are 455 x 256 JPEGs of the toy world, features have the published width. The files are in the system's
cache after the first pass, so this measures decoding and copying, not the disk.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from measuring import Reported, SpeedTable, clock, read_flags, report
from torch.utils.data import DataLoader, Dataset

from egogen.annotations import Annotations
from egogen.cli import flag
from egogen.features import write_feature
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


@dataclass(frozen=True)
class PairSpeed(Reported):
    """The flags."""

    pairs: int = flag("in the made-up split", type=int, default=128)
    workers: int = flag("of the second figure of each way", type=int, default=2)


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

    def read() -> int:
        return sum(len(batch["prompt"]) for batch in loader)

    read()
    found = clock(read)
    return found.result / found.seconds


def main() -> None:
    """Measures each way."""
    options = read_flags(PairSpeed, "ldm_data", __doc__)
    print(f"features are of width {WIDTH}")
    table = SpeedTable()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        config = make_data(root, options.pairs)
        os.environ["RUN_ROOT"] = str(root / "runs")
        torch.manual_seed(0)
        (root / "start.ckpt").write_bytes(b"made up")
        for width in (None, WIDTH):
            files = SplitFiles(config, "train", width)
            tars = SplitFiles(replace(config, frame_tars=str(root / "tars")), "train", width)
            folder = build_cache(files, build(SHAPE), make_tokenizer(), root / "start.ckpt")
            ways = {
                "single files": EgoGenPairs([files]),
                "tar files": EgoGenPairs([tars]),
                "cached latents": EgoGenPairs([files], latents=[CachedLatents(folder)]),
            }
            for way, dataset in ways.items():
                for workers in (0, options.workers):
                    table.add(
                        way=way,
                        features="with" if width else "without",
                        workers=workers,
                        pairs_per_second=pairs_per_second(dataset, workers),
                    )
    report(options, ways=table.rows)


if __name__ == "__main__":
    main()
