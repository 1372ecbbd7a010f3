"""The settings of a stage-2 run: typed and checked sections, which nobody changes (`dataclasses.replace`)."""

from __future__ import annotations

from dataclasses import field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from egogen.errors import check, check_choice
from egogen.features.store_names import STORES
from egogen.layout import (
    DESCRIPTION_KEY,
    FeatureKind,
    FrameFormat,
    Layout,
    data_root,
    features_root,
    merged_annotations,
    run_features,
    sample_index,
    tar_folder,
)
from ldm.config.baselines import PipelineConfig, ProxMasaCtrlConfig, ProxNPIConfig, SDEditConfig
from ldm.config.lora import LoraConfig, LoraFile
from ldm.config.ranges import (
    NUMBER,
    SECTION,
    Below1,
    Count,
    Few,
    Limit,
    Natural,
    NoiseLevels,
    NotNegative,
    PathText,
    Positive,
    Scales,
    Seed,
    Share,
    Steps,
)
from ldm.diffusion.choices import (
    DROP_EACH,
    PUBLISHED,
    OutputRange,
    Precision,
    Timesteps,
    check_interval,
    check_scheduler,
    check_timesteps,
)
from ldm.networks.shapes import Architecture, Streams


@dataclass(frozen=True, config=SECTION)
class ModelConfig:
    """The networks and what is trained of them."""

    start: PathText = ""  # training starts from this checkpoint: Stable Diffusion, InstructPix2Pix or LEGO
    architecture: Architecture | None = None  # by default that of the checkpoint
    vllm_features: bool = True  # False is InstructPix2Pix
    image_features: bool = True  # sigma(H_i) in the context; the ablation leaves it or the text's out
    text_features: bool = True  # pi(mu(H_t)) in the context
    lora: LoraConfig | None = None  # adapters of the UNet are trained, and not its weights (F-S2-14)
    train_conditioner: bool = True  # as the paper says; False as published (F-S2-01)
    mixer_dropout: Below1 = 0.1  # in the conditioner's pi while it trains
    gradient_checkpointing: bool = True  # less memory for a third more work
    channels_last: bool = False  # memory layout of the UNet; faster on GPUs with tensor cores
    compile: bool = False  # the UNet by torch.compile; minutes at the start, then faster
    # Share of samples without text, without both, without frame.
    drop_each: Annotated[float, NUMBER, Field(ge=0, le=1 / 3, description="0 to 1/3")] = DROP_EACH
    ema_decay: Share = 0.9999  # of the moving average of the weights, by which frames are drawn
    ema_every: Literal["step", "batch"] = "step"  # when the average moves; `batch` as published (F-S2-07)
    ema_on_cpu: bool = False  # keep the average in main memory: 3.4 GB less on the GPU

    def __post_init__(self) -> None:
        check(
            "model.text_features",
            self.text_features,
            "true where model.image_features=false; set model.vllm_features=false to leave out both",
            self.image_features or self.text_features,
        )

    @property
    def shape(self) -> Architecture:
        """Sizes of the networks; Stable Diffusion 1.5 where neither YAML nor a checkpoint has given them."""
        return self.architecture or Architecture()

    @property
    def streams(self) -> Streams:
        """Which features enter the context, where `vllm_features` are there at all."""
        return Streams(self.image_features, self.text_features)


@dataclass(frozen=True, config=SECTION)
class SourceConfig:
    """Where one data set is read from. Empty paths follow from `DATA_ROOT` and `RUN_ROOT` (egogen.layout)."""

    dataset: str = "ego4d"  # `ego4d` or `epickitchen`
    root: PathText = ""  # the folder that holds EgoGen/
    train_annotations: PathText = ""  # with descriptions; empty for those below RUN_ROOT, else EgoGen's
    val_annotations: PathText = ""  # the same of the val split
    features: PathText = ""  # holds <data set>/<split>/{llava_image,llava_text}/
    frame_tars: PathText = (
        ""  # read frames from what `python -m egogen.pack --out` wrote, not from single files
    )
    # Read annotations and frames from what `python -m egogen.prepare to-webdataset --out` wrote.
    webdataset: PathText = ""

    def __post_init__(self) -> None:
        Layout(Path(self.root), self.dataset)  # names a wrong data set
        one = not (self.webdataset and self.frame_tars)
        check("data.webdataset", self.webdataset, "empty where data.frame_tars is given; give one", one)

    def layout(self) -> Layout:
        """Path rules of the data set."""
        return Layout(Path(self.root) if self.root else data_root(), self.dataset)

    def annotations(self, split: str) -> Path:
        """What has the annotations of a split: the given file, the shards, our own stage 1's, or EgoGen's."""
        given = self.train_annotations if split == "train" else self.val_annotations
        if given:
            return Path(given)
        if self.webdataset:
            return sample_index(Path(self.webdataset), self.dataset, split)
        part: Literal["train", "val"] = "train" if split == "train" else "val"
        merged = merged_annotations(self.dataset, part)
        return merged if merged.exists() else self.layout().annotations(part)

    def feature_folder(self, split: str, kind: FeatureKind) -> Path:
        """Folder of one kind of stage-1 features."""
        root = Path(self.features) if self.features else run_features()
        return features_root(root, self.dataset, split, kind)

    def tars(self, split: str) -> Path:
        """Folder of a split's packed frames."""
        return tar_folder(Path(self.frame_tars), self.dataset, split)


@dataclass(frozen=True, config=SECTION)
class DataConfig(SourceConfig):
    """What is read and how."""

    text_key: str = DESCRIPTION_KEY  # `action` for the bare label
    # Height and width, in pixels, at which frames are read and drawn.
    resolution: Annotated[
        int, NUMBER, Field(ge=8, le=4096, multiple_of=8, description="a multiple of 8, up to 4096")
    ] = 256
    flip: Share = 0.5  # probability; frames only, features and text stay as they are (published, F-S2-03)
    batch_size: Count = 32  # a process
    workers: Few = 4  # a process
    pin_memory: bool = True  # where there is a GPU
    persistent_workers: bool = True  # they stay from epoch to epoch
    cache_latents: bool = False  # encode frames and texts once, not at every step
    check: Literal["full", "headers"] = "full"  # before training all is read, or of features the headers


@dataclass(frozen=True, config=SECTION)
class FeaturesConfig:
    """Which store stage 1's features are in; `data.features` says where it is (docs/data.md)."""

    store: str = "npy"  # `npy` as published, `compact`, or `online`: image features computed from the frame

    def __post_init__(self) -> None:
        check_choice("features.store", self.store, *STORES)


@dataclass(frozen=True, config=SECTION)
class OptimizerConfig:
    """AdamW at a constant rate, and a loss without weights, as published; both may be changed."""

    lr: Positive = 1e-4  # learning rate
    # Decay of the running means of the gradient and of its square.
    betas: Annotated[
        list[Below1], Field(min_length=2, max_length=2, description="two numbers, 0 to less than 1")
    ] = field(default_factory=lambda: [0.9, 0.999])
    eps: Positive = 1e-8  # added to the root of the second
    weight_decay: NotNegative = 0.01  # decoupled, as in AdamW
    fused: bool = True  # one kernel for all parameters, where there is a GPU
    eight_bit: Literal["on", "off", "auto"] = "off"  # Adam's moments, by bitsandbytes; auto if installed
    warmup_steps: Natural = 0  # in which the rate rises from 0, along a line
    # After the warm-up; `cosine` falls to 0 at trainer.max_steps.
    schedule: Literal["constant", "cosine"] = "constant"
    # Weight of a timestep 1 / (k + SNR)^gamma (Choi et al. 2022); 0 is no weight.
    p2_gamma: Annotated[float, NUMBER, Field(ge=0, le=10)] = 0.0
    p2_k: Positive = 1.0  # the k of that weight


@dataclass(frozen=True, config=SECTION)
class TrainerConfig:
    """Length and rhythm of training. Steps are optimiser steps."""

    effective_batch: Count = 1024  # fewer processes raise the accumulation of gradients
    max_epochs: Limit = -1  # the smaller of both ends training
    max_steps: Limit = -1  # the other end of training
    # `auto` is bf16-mixed on a GPU that has it, else 32-true; 32-true as published (F-S2-08).
    precision: Literal["auto", "32-true", "bf16-mixed"] = "auto"
    tf32: bool = True  # 32-bit products on tensor cores, as torch 1.11 did (published)
    nodes: Annotated[int, NUMBER, Field(ge=1, le=4096)] = 1  # machines
    processes: Annotated[int, NUMBER, Field(ge=1, le=4096)] = (
        1  # on the CPU; on GPUs there is one for each of --gpus
    )
    seed: Seed = 23  # of the order of items and of every draw
    save_every_steps: Count = 1000  # a checkpoint
    keep_last: Natural = 3  # checkpoints besides last.ckpt and best.ckpt; 0 keeps all
    keep_every_steps: Natural = 0  # checkpoints at multiples of this stay for good; 0 is none
    validate_every_epochs: Count = 4  # the loss of the val split, which chooses best.ckpt
    validate_items: Natural = 0  # of the val split, evenly spread; 0 is all of it
    images_every_steps: Count = 500  # a grid of source, drawn frame and target
    images: Natural = 4  # items in a grid; 0 draws none
    log_every_steps: Count = 10  # a point of the curves
    tracker: Literal["tensorboard", "wandb", "mlflow", "none"] = "tensorboard"  # where the curves go
    max_nonfinite: Count = 5  # as many steps in a row without a finite gradient end training
    threads: Few = 0  # CPU threads; 0 leaves the choice to torch
    # After so long without an answer of another process the run ends; longer than any cut of the network
    # that it is to outlast, and than what the first process does alone (checks, caches).
    timeout_minutes: Positive = 30

    def __post_init__(self) -> None:
        met = self.keep_every_steps % self.save_every_steps == 0
        check(
            "trainer.keep_every_steps",
            self.keep_every_steps,
            f"multiples of trainer.save_every_steps={self.save_every_steps}, the steps that are saved",
            met,
        )


@dataclass(frozen=True, config=SECTION)
class SamplingConfig:
    """How frames are drawn; the defaults are the table's setting."""

    scheduler: str = PUBLISHED  # or dpmpp_2m, unipc, ddim, lcm, or a class of diffusers
    steps: Steps = 100  # of denoising; a UNet pass each, or up to three with guidance
    scales_txt: Scales = field(default_factory=lambda: [7.5])  # s_T; several give a folder each
    scales_img: Scales = field(default_factory=lambda: [1.5])  # s_I
    # Noise levels [low, high] at which s_T, and s_I, act; elsewhere they are 1, and fewer passes are run
    # (Kynkaanniemi et al. 2024); [] is all (F-S2-12).
    interval_txt: NoiseLevels = field(default_factory=list)
    interval_img: NoiseLevels = field(default_factory=list)  # the same of s_I
    timesteps: Timesteps = "own"  # `ays`: ten that were optimised, for scheduler=dpmpp_2m or euler (F-S2-12)
    adapt: bool = False  # a distilled checkpoint is drawn by its own steps, and scales within its limits
    seed: Seed = 0  # of the noise, which is keyed by item besides
    height: Annotated[int, NUMBER, Field(ge=0, le=16384)] = (
        0  # of the written frames; 0 is data.resolution, at which they are drawn
    )
    output_range: OutputRange = (
        "stretch"  # as published; `clamp` for people, and of --method pipeline (F-S2-02)
    )
    format: FrameFormat = "jpg"  # the target's own name, as published; `png` changes the suffix
    batch_size: Count = 8  # frames drawn together
    precision: Precision = "auto"  # 16 bits where they are faster and good; `ldm.networks.precision`
    compile: bool = False  # UNet and decoder by torch.compile
    loras: list[LoraFile] = field(default_factory=list)  # added to the UNet, and to the text encoder

    def __post_init__(self) -> None:
        check_scheduler(self.scheduler)
        check_timesteps("sampling.", self.timesteps, self.scheduler, self.steps)
        for name in ("interval_txt", "interval_img"):
            check_interval(f"sampling.{name}", getattr(self, name))

    @property
    def arguments(self) -> dict[str, Any]:
        """What `LegoPipeline` takes of it, by its names; of several scales the first."""
        return {
            "num_inference_steps": self.steps,
            "guidance_scale": self.scales_txt[0],
            "image_guidance_scale": self.scales_img[0],
            "guidance_interval": self.interval_txt,
            "image_guidance_interval": self.interval_img,
            "timesteps": self.timesteps,
        }


@dataclass(frozen=True, config=SECTION)
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
        steps = self.trainer.max_steps
        ends = self.optimizer.schedule != "cosine" or steps >= 1
        check("trainer.max_steps", steps, "at least 1 with optimizer.schedule=cosine", ends)
        loras = [lora.path for lora in self.sampling.loras]
        check("sampling.loras", loras, "[] in training, which draws by what it trains", not loras)

    def all_data(self) -> list[DataConfig]:
        """`data`, then each of `joint`, which share all but their paths."""
        return [self.data, *(replace(self.data, **vars(source)) for source in self.joint)]


@dataclass(frozen=True, config=SECTION)
class GenerateConfig:
    """Everything `python -m ldm.sample` reads."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    features: FeaturesConfig = field(default_factory=FeaturesConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    sdedit: SDEditConfig = field(default_factory=SDEditConfig)
    proxnpi: ProxNPIConfig = field(default_factory=ProxNPIConfig)
    proxmasactrl: ProxMasaCtrlConfig = field(default_factory=ProxMasaCtrlConfig)
    pipeline: PipelineConfig = field(default_factory=PipelineConfig)
