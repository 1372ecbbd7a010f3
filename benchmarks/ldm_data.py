"""How fast training pairs are read: single files, tar files, cached latents; with and without loader workers.

    python benchmarks/ldm_data.py                    # a minute or two
    python benchmarks/ldm_data.py --workers 8 --pairs 2000

Frames are 455 x 256 JPEGs of the toy world, features have the published width. The files are in the system's
cache after the first pass, so this measures decoding and copying, not the disk.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from measuring import LLM_WIDTH, Reported, SpeedTable, clock, run, write_split
from torch.utils.data import DataLoader, Dataset

from egogen.cli import flag
from egogen.features import IMAGE_TOKENS
from egogen.frames import pack
from egogen.layout import Layout, tar_folder
from ldm.config.sections import DataConfig
from ldm.data.latents import CachedLatents, build_cache
from ldm.data.pairs import EgoGenPairs, Sample, SplitFiles
from ldm.networks.architecture import build
from ldm.networks.shapes import Architecture, TextShape, UNetShape, VAEShape
from ldm.networks.text import make_tokenizer

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


def pairs_per_second(dataset: Dataset[Sample], workers: int) -> float:
    """Reads everything once to warm up, then once by the clock."""
    loader = DataLoader(dataset, batch_size=16, num_workers=workers, persistent_workers=workers > 0)
    for _ in range(2):
        found = clock(lambda: sum(len(batch["prompt"]) for batch in loader))
    return found.result / found.seconds


def measure(options: PairSpeed, root: Path) -> dict[str, SpeedTable]:
    """Measures each way."""
    print(f"features are of width {LLM_WIDTH}")
    table, rng = SpeedTable(), np.random.default_rng(0)
    tree, tars = root / "features", root / "tars"
    items = write_split(root, options.pairs, tree, rng, lambda: rng.normal(size=(IMAGE_TOKENS, LLM_WIDTH)))
    names = [name for item in items for name in (item.action.image_0, item.action.image_1)]
    pack(Layout(root, "ego4d").frames("train"), names, tar_folder(tars, "ego4d", "train"))
    config = DataConfig(root=str(root), features=str(tree), text_key="action", flip=0.5, workers=0)
    os.environ["RUN_ROOT"] = str(root / "runs")
    torch.manual_seed(0)
    (root / "start.ckpt").write_bytes(b"made up")
    for width in (None, LLM_WIDTH):
        files = SplitFiles(config, "train", width)
        folder = build_cache(files, build(SHAPE), make_tokenizer(), root / "start.ckpt")
        ways = {
            "single files": EgoGenPairs([files]),
            "tar files": EgoGenPairs([SplitFiles(replace(config, frame_tars=str(tars)), "train", width)]),
            "cached latents": EgoGenPairs([files], latents=[CachedLatents(folder)]),
        }
        for way, dataset in ways.items():
            for workers in (0, options.workers):
                speed, features = pairs_per_second(dataset, workers), "with" if width else "without"
                table.add(way=way, features=features, workers=workers, pairs_per_second=speed)
    return {"ways": table}


if __name__ == "__main__":
    run(measure, PairSpeed, __doc__)
