"""The configuration of a stage-2 run: typed, checked, and every unknown key an error."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import isfinite
from pathlib import Path
from typing import Any, Literal, TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from egogen.annotations import DESCRIPTION_KEY, check_object
from egogen.errors import UserError, check, reason
from egogen.features.store import STORES
from egogen.files import read_yaml
from egogen.layout import Layout, data_root, features_root, merged_annotations, run_features, tar_folder
from ldm.conditioner import Streams
from ldm.config.baselines import ProxMasaCtrlConfig, ProxNPIConfig, SDEditConfig
from ldm.diffusion.sampler import PUBLISHED, make_scheduler
from ldm.networks.architecture import Architecture

Config = TypeVar("Config")
WORD = re.compile(r"[A-Za-z_][\w.]*=")  # key.sub=value
PRECISIONS = ("auto", "32-true", "bf16-mixed")


@dataclass
class ModelConfig:
    """The networks and what is trained of them."""

    start: str = ""  # training starts from this checkpoint: Stable Diffusion, InstructPix2Pix or LEGO
    architecture: Architecture = field(default_factory=Architecture)
    vllm_features: bool = True  # False is InstructPix2Pix
    image_features: bool = True  # sigma(H_i) in the context; the ablation leaves it or the text's out
    text_features: bool = True  # pi(mu(H_t)) in the context
    train_conditioner: bool = True  # as the paper says; False as published (F-S2-01)
    mixer_dropout: float = 0.1  # in the conditioner's pi while it trains
    gradient_checkpointing: bool = True  # less memory for a third more work
    channels_last: bool = False  # memory layout of the UNet; faster on GPUs with tensor cores
    compile: bool = False  # the UNet by torch.compile; minutes at the start, then faster
    drop_each: float = 0.05  # share of samples without text, without both, without frame
    ema_decay: float = 0.9999
    ema_every: str = "step"  # when the average moves: `step`, or `batch` as published (F-S2-07)
    ema_on_cpu: bool = False  # keep the average in main memory: 3.4 GB less on the GPU

    def __post_init__(self) -> None:
        check(
            "model.text_features",
            self.text_features,
            "true where model.image_features=false; set model.vllm_features=false to leave out both",
            self.image_features or self.text_features,
        )
        check("model.drop_each", self.drop_each, "0 to 1/3", 0 <= self.drop_each <= 1 / 3)
        check("model.ema_every", self.ema_every, "step, batch", self.ema_every in ("step", "batch"))
        check("model.mixer_dropout", self.mixer_dropout, "0 to less than 1", 0 <= self.mixer_dropout < 1)
        check("model.ema_decay", self.ema_decay, "0 to 1", 0 <= self.ema_decay <= 1)

    @property
    def streams(self) -> Streams:
        """Which features enter the context, where `vllm_features` are there at all."""
        return Streams(self.image_features, self.text_features)


@dataclass
class SourceConfig:
    """Where one data set is read from. Empty paths follow from `DATA_ROOT` and `RUN_ROOT` (egogen.layout)."""

    dataset: str = "ego4d"
    root: str = ""  # the folder that holds EgoGen/
    train_annotations: str = ""  # with descriptions; empty for those below RUN_ROOT, else EgoGen's
    val_annotations: str = ""
    features: str = ""  # holds <data set>/<split>/{llava_image,llava_text}/
    frame_tars: str = ""  # read frames from what `python -m egogen.pack --out` wrote, not from single files

    def __post_init__(self) -> None:
        Layout(Path(self.root), self.dataset)  # names a wrong data set

    def layout(self) -> Layout:
        """Path rules of the data set."""
        return Layout(Path(self.root) if self.root else data_root(), self.dataset)

    def annotations(self, split: str) -> Path:
        """Annotation file of `train` or `val`: the given one, that of our own stage 1, or EgoGen's."""
        given = self.train_annotations if split == "train" else self.val_annotations
        if given:
            return Path(given)
        part: Literal["train", "val"] = "train" if split == "train" else "val"
        merged = merged_annotations(self.dataset, part)
        return merged if merged.exists() else self.layout().annotations(part)

    def feature_folder(self, split: str, kind: Any) -> Path:  # noqa: ANN401 - a FeatureKind; OmegaConf reads hints
        """Folder of one kind of stage-1 features."""
        root = Path(self.features) if self.features else run_features()
        return features_root(root, self.dataset, split, kind)

    def tars(self, split: str) -> Path:
        """Folder of a split's packed frames."""
        return tar_folder(Path(self.frame_tars), self.dataset, split)


@dataclass
class DataConfig(SourceConfig):
    """What is read and how."""

    text_key: str = DESCRIPTION_KEY  # `action` for the bare label
    resolution: int = 256
    flip: float = 0.5  # probability; frames only, features and text stay as they are (published, F-S2-03)
    batch_size: int = 32  # a process
    workers: int = 4  # a process
    pin_memory: bool = True  # where there is a GPU
    persistent_workers: bool = True
    cache_latents: bool = False  # encode frames and texts once, not at every step
    check: str = "full"  # what is read before training: all, or of features the `headers` alone

    def __post_init__(self) -> None:
        super().__post_init__()
        check(
            "data.resolution",
            self.resolution,
            "a positive multiple of 8",
            self.resolution % 8 == 0 < self.resolution,
        )
        check("data.flip", self.flip, "0 to 1", 0 <= self.flip <= 1)
        check("data.batch_size", self.batch_size, "at least 1", self.batch_size >= 1)
        check("data.workers", self.workers, "0 or more", self.workers >= 0)
        check("data.check", self.check, "full, headers", self.check in ("full", "headers"))


@dataclass
class FeaturesConfig:
    """Which store stage 1's features are in; `data.features` says where it is (docs/data.md)."""

    store: str = "npy"  # `npy` as published, `compact`, or `online`: image features computed from the frame

    def __post_init__(self) -> None:
        check("features.store", self.store, ", ".join(STORES), self.store in STORES)


@dataclass
class OptimizerConfig:
    """AdamW at a constant rate, and a loss without weights, as published; both may be changed."""

    lr: float = 1e-4
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    eps: float = 1e-8
    weight_decay: float = 0.01
    fused: bool = True  # one kernel for all parameters, where there is a GPU
    eight_bit: str = "off"  # Adam's moments in 8 bits by bitsandbytes: on, off, or auto (if it is installed)
    warmup_steps: int = 0
    schedule: str = "constant"  # after the warm-up; `cosine` falls to 0 at trainer.max_steps
    p2_gamma: float = 0.0  # weight of a timestep 1 / (k + SNR)^gamma (Choi et al. 2022); 0 is no weight
    p2_k: float = 1.0

    def __post_init__(self) -> None:
        check("optimizer.lr", self.lr, "more than 0", self.lr > 0)
        check(
            "optimizer.schedule", self.schedule, "constant, cosine", self.schedule in ("constant", "cosine")
        )
        check("optimizer.eight_bit", self.eight_bit, "on, off, auto", self.eight_bit in ("on", "off", "auto"))
        check("optimizer.p2_gamma", self.p2_gamma, "0 or more", self.p2_gamma >= 0)
        check("optimizer.p2_k", self.p2_k, "more than 0", self.p2_k > 0)
        check("optimizer.warmup_steps", self.warmup_steps, "0 or more", self.warmup_steps >= 0)


@dataclass
class TrainerConfig:
    """Length and rhythm of training. Steps are optimiser steps."""

    effective_batch: int = 1024  # fewer processes raise the accumulation of gradients
    max_epochs: int = -1  # the smaller of both ends training
    max_steps: int = -1
    precision: str = "auto"  # bf16-mixed on a GPU that has it, else 32-true; 32-true as published (F-S2-08)
    tf32: bool = True  # 32-bit products on tensor cores, as torch 1.11 did (published)
    nodes: int = 1
    processes: int = 1  # on the CPU; on GPUs there is one for each of --gpus
    seed: int = 23
    save_every_steps: int = 1000
    keep_last: int = 3  # checkpoints besides last.ckpt and best.ckpt; 0 keeps all
    keep_every_steps: int = 0  # checkpoints at multiples of this stay for good; 0 is none
    validate_every_epochs: int = 4
    images_every_steps: int = 500
    images: int = 4
    log_every_steps: int = 10
    max_nonfinite: int = 5  # as many steps in a row without a finite gradient end training
    threads: int = 0  # CPU threads; 0 leaves the choice to torch

    def __post_init__(self) -> None:
        for name in (
            "effective_batch", "nodes", "processes", "save_every_steps", "validate_every_epochs",
            "images_every_steps", "log_every_steps", "max_nonfinite",
        ):  # fmt: skip
            check(f"trainer.{name}", getattr(self, name), "at least 1", getattr(self, name) >= 1)
        for name in ("keep_last", "keep_every_steps", "images", "threads"):
            check(f"trainer.{name}", getattr(self, name), "0 or more", getattr(self, name) >= 0)
        check("trainer.precision", self.precision, ", ".join(PRECISIONS), self.precision in PRECISIONS)


@dataclass
class SamplingConfig:
    """How frames are drawn; the defaults are the table's setting."""

    scheduler: str = PUBLISHED
    steps: int = 100
    scales_txt: list[float] = field(default_factory=lambda: [7.5])  # s_T; several give a folder each
    scales_img: list[float] = field(default_factory=lambda: [1.5])  # s_I
    seed: int = 0
    height: int = 0  # of the written frames; 0 is data.resolution, at which they are drawn
    output_range: str = "stretch"  # per frame, as published; `clamp` for people (F-S2-02)
    format: str = "jpg"  # the target's own name, as published; `png` changes the suffix
    batch_size: int = 8
    precision: str = "auto"  # of the UNet: bf16 on a GPU that has it, else 32
    compile: bool = False  # UNet and decoder by torch.compile

    def __post_init__(self) -> None:
        for name in ("scales_txt", "scales_img"):
            scales = getattr(self, name)
            good = bool(scales) and all(map(isfinite, scales))
            check(f"sampling.{name}", scales, "at least one number, all finite", good)
        make_scheduler(self.scheduler)  # names a wrong one
        check(
            "sampling.precision", self.precision, "auto, bf16, 32", self.precision in ("auto", "bf16", "32")
        )
        check("sampling.steps", self.steps, "at least 1", self.steps >= 1)
        check("sampling.height", self.height, "0 or more", self.height >= 0)
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
    features: FeaturesConfig = field(default_factory=FeaturesConfig)
    joint: list[SourceConfig] = field(default_factory=list)  # data sets to train on besides `data`
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)

    def __post_init__(self) -> None:
        endless = self.optimizer.schedule == "cosine" and self.trainer.max_steps < 1
        check(
            "trainer.max_steps",
            self.trainer.max_steps,
            "at least 1 with optimizer.schedule=cosine",
            not endless,
        )

    def all_data(self) -> list[DataConfig]:
        """`data`, then each of `joint`, which share all but their paths."""
        return [self.data, *(replace(self.data, **vars(source)) for source in self.joint)]


@dataclass
class GenerateConfig:
    """Everything `python -m ldm.sample` reads."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    features: FeaturesConfig = field(default_factory=FeaturesConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    sdedit: SDEditConfig = field(default_factory=SDEditConfig)
    proxnpi: ProxNPIConfig = field(default_factory=ProxNPIConfig)
    proxmasactrl: ProxMasaCtrlConfig = field(default_factory=ProxMasaCtrlConfig)


def split_words(words: Sequence[str]) -> tuple[list[Path], list[str]]:
    """Tells YAML files from `key.sub=value` words, which may follow them on a command line."""
    settings = [word for word in words if WORD.match(word)]
    return [Path(word) for word in words if word not in settings], settings


def load_config(kind: type[Config], files: Sequence[Path], overrides: Sequence[str] = ()) -> Config:
    """Merges YAML files left to right, then `key.sub=value` words, over the defaults.

    Raises:
        UserError: a missing file, broken YAML, an unknown key (with the nearest valid one) or a bad value.
    """
    merged = OmegaConf.structured(kind)
    for path in files:
        merged = merge(merged, check_object(read_yaml(path) or {}, f"{path}", "settings by name"), f"{path}")
    for word in overrides:
        if "=" not in word.lstrip("="):
            hint = "such as data.resolution=256; YAML files go before such words"
            raise UserError(f"{word!r}: expected key=value, {hint}")
        merged = merge(merged, OmegaConf.from_dotlist([word]), f"{word!r}")
    try:
        made = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        raise UserError(f"{describe(files)}: {reason(error)}") from None
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
        raise UserError(f"{source}: key {place!r}: {reason(error)}") from None


def flat_keys(tree: Any, prefix: str = "") -> list[str]:  # noqa: ANN401 - a YAML tree
    """All dotted keys of a tree, inner ones included."""
    if not isinstance(tree, dict):
        return []
    found = []
    for key, value in tree.items():
        found += [f"{prefix}{key}", *flat_keys(value, f"{prefix}{key}.")]
    return found


def describe(files: Sequence[Path]) -> str:
    """The files, for a message."""
    return ", ".join(map(str, files)) or "configuration"
