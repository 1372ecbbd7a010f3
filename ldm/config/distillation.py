"""Settings of a distillation: those of training, and the section `distill`."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from egogen.errors import check
from ldm.config.ranges import NUMBER, SECTION, PathText, Positive, Scale
from ldm.config.sections import ModelConfig, TrainConfig
from ldm.diffusion.choices import DDIM_TRAILING, TRAINING_STEPS
from ldm.networks.distilled import Distilled, Phases

Limits = Annotated[list[Scale], Field(min_length=2, max_length=2, description="the lowest, then the highest")]


@dataclass(frozen=True, config=SECTION)
class DistillationConfig:
    """How a student learns from the guided teacher, which is `model.start`."""

    # `guidance`: one pass in place of three (Meng et al. 2022); `consistency`: as many steps as phases.
    method: Literal["guidance", "consistency"] = "guidance"
    student: PathText = ""  # the student goes on from this checkpoint's UNet; by default from the teacher's
    text_scales: Limits = field(default_factory=lambda: [1.0, 14.0])  # w_T is drawn from it
    image_scales: Limits = field(default_factory=lambda: [1.0, 3.0])  # w_I
    scale_layer_rate: Positive = 10.0  # of the layer that reads the scales, times optimizer.lr
    phases: Phases = 4  # M, of `consistency`: the steps that the student draws in
    grid: Annotated[int, NUMBER, Field(ge=1, le=TRAINING_STEPS)] = 40  # N, DDIM steps of the teacher's path
    huber: Positive = 1e-3  # d of the pseudo-Huber loss

    def __post_init__(self) -> None:
        for name in ("text_scales", "image_scales"):
            low, high = getattr(self, name)
            check(f"distill.{name}", [low, high], "the lowest, then the highest", low <= high)
        check(
            "distill.grid",
            self.grid,
            f"a divisor of {TRAINING_STEPS} and a multiple of distill.phases ({self.phases}), such as 40",
            not TRAINING_STEPS % self.grid and not self.grid % self.phases,
        )

    @property
    def stated(self) -> Distilled:
        """What the student's checkpoints say they were distilled for."""
        phases = self.phases if self.method == "consistency" else None
        return Distilled(self.text_scales, self.image_scales, phases)


def frozen_model() -> ModelConfig:
    """The teacher's conditioner stays as it is, and nothing is dropped: the guided teacher did that."""
    return ModelConfig(train_conditioner=False, mixer_dropout=0.0, drop_each=0.0)


@dataclass(frozen=True, config=SECTION)
class DistillConfig(TrainConfig):
    """Everything `python -m ldm.distill` reads; `sampling` draws the grids."""

    model: ModelConfig = field(default_factory=frozen_model)
    distill: DistillationConfig = field(default_factory=DistillationConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        wanted = frozen_model()
        for name in ("train_conditioner", "mixer_dropout", "drop_each"):
            value, allowed = getattr(self.model, name), getattr(wanted, name)
            check(f"model.{name}", value, f"{allowed} in a distillation".lower(), value == allowed)
        check("model.lora", self.model.lora, "none in a distillation", self.model.lora is None)
        stated, sampling = self.distill.stated, self.sampling
        names = ("sampling.scales_txt", "sampling.scales_img")
        stated.check_scales(sampling.scales_txt[0], sampling.scales_img[0], names)
        stated.check_steps("sampling.steps", sampling.steps)
        for name in ("interval_txt", "interval_img"):
            levels = getattr(sampling, name)
            check(f"sampling.{name}", levels, "[] in a distillation: all noise levels are guided", not levels)
        if stated.phases:
            scheduler = sampling.scheduler
            check("sampling.scheduler", scheduler, DDIM_TRAILING, scheduler == DDIM_TRAILING)
            weight = self.optimizer.p2_gamma
            check("optimizer.p2_gamma", weight, "0 with distill.method=consistency", not weight)
