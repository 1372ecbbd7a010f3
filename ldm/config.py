"""The configuration of a stage-2 run: typed, checked, and every unknown key an error."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException
from yaml import YAMLError

from egogen.annotations import DESCRIPTION_KEY
from egogen.errors import UserError
from egogen.layout import Layout, data_root, features_root, run_root
from ldm.architecture import Architecture
from ldm.sampler import PUBLISHED

Config = TypeVar("Config")


def check(name: str, value: object, allowed: str, good: bool) -> None:
    """Raises a `UserError` that names a key, its value and what is allowed, unless it is good."""
    if not good:
        raise UserError(f"{name}: got {value!r}, allowed: {allowed}")


@dataclass
class ModelConfig:
    """The networks and what is trained of them."""

    start: str = ""  # training starts from this checkpoint: Stable Diffusion, InstructPix2Pix or LEGO
    architecture: Architecture = field(default_factory=Architecture)
    vllm_features: bool = True  # False is InstructPix2Pix
    train_conditioner: bool = True  # as the paper says; False as published (F-S2-01)
    gradient_checkpointing: bool = True
    drop_each: float = 0.05  # share of samples without text, without both, without frame
    ema_decay: float = 0.9999

    def __post_init__(self) -> None:
        check("model.drop_each", self.drop_each, "0 to 1/3", 0 <= self.drop_each <= 1 / 3)
        check("model.ema_decay", self.ema_decay, "0 to 1", 0 <= self.ema_decay <= 1)


@dataclass
class DataConfig:
    """Where a split is read from. Empty paths follow from `DATA_ROOT` and `RUN_ROOT` (egogen.layout)."""

    dataset: str = "ego4d"
    root: str = ""  # the folder that holds EgoGen/
    train_annotations: str = ""  # with descriptions, as written by llava.merge
    val_annotations: str = ""
    features: str = ""  # holds <data set>/<split>/{llava_image,llava_text}/
    text_key: str = DESCRIPTION_KEY  # `action` for the bare label
    resolution: int = 256
    flip: float = 0.5  # probability; frames only, features and text stay as they are (published, F-S2-03)
    batch_size: int = 32  # a process
    workers: int = 4  # a process
    cache_latents: bool = False  # encode frames and texts once, not at every step

    def __post_init__(self) -> None:
        Layout(Path(self.root), self.dataset)  # names a wrong data set
        check(
            "data.resolution",
            self.resolution,
            "a positive multiple of 8",
            self.resolution % 8 == 0 < self.resolution,
        )
        check("data.flip", self.flip, "0 to 1", 0 <= self.flip <= 1)
        check("data.batch_size", self.batch_size, "at least 1", self.batch_size >= 1)
        check("data.workers", self.workers, "0 or more", self.workers >= 0)

    def layout(self) -> Layout:
        """Path rules of the data set."""
        return Layout(Path(self.root) if self.root else data_root(), self.dataset)

    def annotations(self, split: str) -> Path:
        """Annotation file of `train` or `val`."""
        given = self.train_annotations if split == "train" else self.val_annotations
        return Path(given) if given else self.layout().annotations("train" if split == "train" else "val")

    def feature_folder(self, split: str, kind: Any) -> Path:  # noqa: ANN401 - a FeatureKind; OmegaConf reads hints
        """Folder of one kind of stage-1 features."""
        return features_root(
            Path(self.features) if self.features else run_root() / "features", self.dataset, split, kind
        )


@dataclass
class OptimizerConfig:
    """AdamW at a constant rate, and a loss without weights, as published; both may be changed."""

    lr: float = 1e-4
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    eps: float = 1e-8
    weight_decay: float = 0.01
    warmup_steps: int = 0
    schedule: str = "constant"  # after the warm-up; `cosine` falls to 0 at trainer.max_steps
    p2_gamma: float = 0.0  # weight of a timestep 1 / (k + SNR)^gamma (Choi et al. 2022); 0 is no weight
    p2_k: float = 1.0

    def __post_init__(self) -> None:
        check("optimizer.lr", self.lr, "more than 0", self.lr > 0)
        check(
            "optimizer.schedule", self.schedule, "constant, cosine", self.schedule in ("constant", "cosine")
        )
        check("optimizer.p2_gamma", self.p2_gamma, "0 or more", self.p2_gamma >= 0)
        check("optimizer.p2_k", self.p2_k, "more than 0", self.p2_k > 0)
        check("optimizer.warmup_steps", self.warmup_steps, "0 or more", self.warmup_steps >= 0)


@dataclass
class TrainerConfig:
    """Length and rhythm of training. Steps are optimiser steps."""

    effective_batch: int = 1024  # fewer processes raise the accumulation of gradients
    max_epochs: int = -1
    max_steps: int = -1
    precision: str = "32-true"
    seed: int = 23
    save_every_steps: int = 1000
    validate_every_epochs: int = 4
    images_every_steps: int = 500
    images: int = 4
    log_every_steps: int = 10
    threads: int = 0  # CPU threads; 0 leaves the choice to torch

    def __post_init__(self) -> None:
        endless = self.max_epochs < 1 and self.max_steps < 1
        check(
            "trainer.max_epochs", self.max_epochs, "at least 1, or trainer.max_steps at least 1", not endless
        )
        for name in ("effective_batch", "save_every_steps", "validate_every_epochs", "images_every_steps"):
            check(f"trainer.{name}", getattr(self, name), "at least 1", getattr(self, name) >= 1)


@dataclass
class SamplingConfig:
    """How frames are drawn; the defaults are the table's setting."""

    scheduler: str = PUBLISHED
    steps: int = 100
    scale_text: float = 7.5
    scale_image: float = 1.5
    seed: int = 0
    output_range: str = "stretch"  # per frame, as published; `clamp` for people (F-S2-02)
    format: str = "jpg"  # the target's own name, as published; `png` changes the suffix
    batch_size: int = 8

    def __post_init__(self) -> None:
        check("sampling.steps", self.steps, "at least 1", self.steps >= 1)
        check("sampling.batch_size", self.batch_size, "at least 1", self.batch_size >= 1)
        check(
            "sampling.output_range",
            self.output_range,
            "stretch, clamp",
            self.output_range in ("stretch", "clamp"),
        )
        check("sampling.format", self.format, "jpg, png", self.format in ("jpg", "png"))


@dataclass
class TrainConfig:
    """Everything `main.py` reads."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    trainer: TrainerConfig = field(default_factory=lambda: TrainerConfig(max_steps=1))
    sampling: SamplingConfig = field(default_factory=SamplingConfig)

    def __post_init__(self) -> None:
        endless = self.optimizer.schedule == "cosine" and self.trainer.max_steps < 1
        check(
            "trainer.max_steps",
            self.trainer.max_steps,
            "at least 1 with optimizer.schedule=cosine",
            not endless,
        )


@dataclass
class GenerateConfig:
    """Everything `python -m ldm.sample` reads."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)


def load_config(kind: type[Config], files: Sequence[Path], overrides: Sequence[str] = ()) -> Config:
    """Merges YAML files left to right, then `key.sub=value` words, over the defaults.

    Raises:
        UserError: a missing file, broken YAML, an unknown key (with the nearest valid one) or a bad value.
    """
    merged = OmegaConf.structured(kind)
    for path in files:
        if not path.is_file():
            raise UserError(f"{path}: no such configuration file")
        try:
            layer = OmegaConf.load(path)
        except (YAMLError, OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: not readable as YAML ({' '.join(str(error).split())})") from None
        merged = merge(merged, layer, f"{path}")
    for word in overrides:
        if "=" not in word.lstrip("="):
            raise UserError(f"{word!r}: expected key=value, such as trainer.max_steps=100")
        merged = merge(merged, OmegaConf.from_dotlist([word]), f"{word!r}")
    try:
        made = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        raise UserError(f"{describe(files)}: {first_line(error)}") from None
    assert isinstance(made, kind)
    return made


def merge(base: Any, layer: Any, source: str) -> Any:  # noqa: ANN401 - OmegaConf nodes
    """Lays one layer over another.

    Raises:
        UserError: an unknown key, or a value of another type.
    """
    try:
        return OmegaConf.merge(base, layer)
    except ConfigKeyError as error:
        key = str(error.full_key or error.key)
        near = difflib.get_close_matches(key, list(flat_keys(OmegaConf.to_container(base))), n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UserError(f"{source}: unknown key {key!r}{hint}") from None
    except (OmegaConfBaseException, TypeError) as error:
        place = getattr(error, "full_key", None)
        raise UserError(f"{source}: key {place!r}: {first_line(error)}") from None


def flat_keys(tree: Any, prefix: str = "") -> list[str]:  # noqa: ANN401 - a YAML tree
    """All dotted keys of a tree, inner ones included."""
    if not isinstance(tree, dict):
        return []
    found = []
    for key, value in tree.items():
        found += [f"{prefix}{key}", *flat_keys(value, f"{prefix}{key}.")]
    return found


def first_line(error: Exception) -> str:
    """First line of a message of several."""
    return str(error).strip().splitlines()[0]


def describe(files: Sequence[Path]) -> str:
    """The files, for a message."""
    return ", ".join(map(str, files)) or "configuration"
