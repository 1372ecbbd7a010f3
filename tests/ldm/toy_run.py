"""A tiny stage-2 run for tests: a world of a few pairs, made-up features, a start checkpoint, settings."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from egogen.annotations import Annotations
from egogen.features import write_feature
from egogen.layout import Layout, feature_path, features_root
from egogen.toy.world import write_world
from ldm.checkpoints.writing import published_state, write
from ldm.networks.architecture import build
from ldm.networks.shapes import Architecture, TextShape, UNetShape, VAEShape
from ldm.train import main as train

WIDTH = 24
SHAPE = Architecture(
    unet=UNetShape(channels=[32, 64], attention=[False, False], blocks=1, groups=8),
    vae=VAEShape(channels=[16, 32], blocks=1, groups=8),
    text=TextShape(width=32, layers=1, heads=2, intermediate=32),
    llm_width=WIDTH,
    mixer_width=64,
)
ATTENTIVE = replace(SHAPE, unet=replace(SHAPE.unet, attention=[False, True]))  # not in the middle alone
OVERRIDES = [
    f"model.architecture.llm_width={WIDTH}",
    "model.architecture.mixer_width=64",
    "model.architecture.text={width: 32, layers: 1, heads: 2, intermediate: 32}",
    "model.architecture.unet={channels: [32, 64], attention: [false, false], blocks: 1, groups: 8}",
    "model.architecture.vae={channels: [16, 32], blocks: 1, groups: 8}",
    "data.resolution=32",
    "data.workers=0",
]
TRAINING = [
    "data.batch_size=2",
    "data.flip=0.5",
    "trainer.effective_batch=4",
    "trainer.max_steps=4",
    "trainer.validate_every_epochs=1",
    "trainer.images_every_steps=4",
    "trainer.images=1",
    "trainer.save_every_steps=2",
    "trainer.log_every_steps=1",
    "sampling.steps=2",
]


@dataclass
class Run:
    """Paths of the tiny run, and the shape of its model."""

    root: Path
    shape: Architecture = SHAPE

    @property
    def layout(self) -> Layout:
        return Layout(self.root / "data", "ego4d")

    @property
    def start(self) -> Path:
        return self.root / "start.ckpt"

    def annotations(self, split: str) -> Path:
        return self.root / f"{split}.json"

    @property
    def features(self) -> Path:
        return self.root / "features"

    def words(self) -> list[str]:
        """Settings that point a configuration at this run."""
        return [
            f"data.root={self.root / 'data'}",
            f"data.train_annotations={self.annotations('train')}",
            f"data.val_annotations={self.annotations('val')}",
            f"data.features={self.features}",
            *OVERRIDES,
            f"model.architecture.unet.attention={self.shape.unet.attention}",
        ]


def make_run(root: Path, shape: Architecture = SHAPE) -> Run:
    """Writes everything stage 2 reads."""
    run = Run(root, shape)
    write_world(root / "data", 6, 3, size=32, workers=1)
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        annotations = Annotations.read(run.layout.annotations(split))
        for item in annotations:
            for kind, tokens in (("llava_image", 256), ("llava_text", 9)):
                folder = features_root(run.features, "ego4d", split, kind)
                write_feature(feature_path(folder, item.action.image_0), rng.normal(size=(tokens, WIDTH)))
        texts = (f"the hand does {item.action.action}" for item in annotations)
        annotations.write(run.annotations(split), texts)
    torch.manual_seed(0)
    shape = replace(shape, unet=replace(shape.unet, in_channels=4))
    write(run.start, published_state(build(shape, conditioner=False), shape), shape)
    return run


def base(run: Run) -> Path:
    """Writes the YAML of a tiny training."""
    path = run.root / "tiny.yaml"
    path.write_text(f"model: {{start: {run.start}, gradient_checkpointing: true}}\n")
    return path


def training(run: Run, name: str, *words: str, logs: Path | None = None) -> list[str]:
    """Flags and settings of `main.py` for a tiny training; its folder is `tiny_<name>` below `logs`."""
    flags = ["--name", name, "--base", str(base(run)), "--train", "--logdir", str(logs or run.root / "logs")]
    return [*flags, *run.words(), *TRAINING, *words]


def fit(run: Run, name: str, *words: str) -> Path:
    """Trains by the command; returns the folder of the training."""
    train(training(run, name, *words))
    return run.root / "logs" / f"tiny_{name}"
