"""Settings of the baselines: sections of a drawing configuration, by the methods' names."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from egogen.errors import check
from ldm.config.ranges import NUMBER, SECTION, GridSteps, Natural, Number, Scale, Share
from ldm.diffusion.choices import TRAINING_STEPS, grid_timesteps

# What a pipeline's call is given by the drawing itself.
GIVEN = ("image", "prompt", "generator", "output_type", "return_dict", "num_images_per_prompt")
Injected = Literal["src", "joint", "none"]
BEYOND = TRAINING_STEPS + 1  # of all timesteps
Quantile = Annotated[float, NUMBER, Field(le=1)]
Timestep = Annotated[int, NUMBER, Field(ge=-BEYOND, le=BEYOND)]
Cells = Annotated[int, NUMBER, Field(ge=0, le=512)]


@dataclass(frozen=True, config=SECTION)
class SDEditConfig:
    """SDEdit (Meng et al. 2022) with Stable Diffusion; the defaults are those of CompVis' img2img script."""

    strength: Share = 0.75  # t_0, as a share of the steps
    steps: GridSteps = 50  # of the grid of DDIM timesteps
    guidance: Scale = 5.0  # by text
    # A grid step above the first call; `matched` as diffusers (F-BL-01).
    noise_level: Literal["compvis", "matched"] = "compvis"

    def __post_init__(self) -> None:
        levels = len(grid_timesteps(self.steps))
        check(
            "sdedit.strength",
            self.strength,
            f"less than {levels / self.steps:g} with {self.steps} steps; or set sdedit.noise_level=matched",
            self.noised_level < levels,
        )

    @property
    def repainted(self) -> int:
        """How many steps are drawn anew; fractions are cut off, so that 0.29 of 100 is 28 (published)."""
        return int(self.strength * self.steps)

    @property
    def noised_level(self) -> int:
        """The grid's level that the frame is noised to; -1 is no noise."""
        return self.repainted if self.noise_level == "compvis" else self.repainted - 1


@dataclass(frozen=True, config=SECTION)
class ProxConfig:
    """What both variants of ProxEdit (Han et al. 2024) share."""

    steps: GridSteps = 50  # of the grid of DDIM timesteps
    guidance: Scale = 7.5  # w
    prox: Literal["l0", "l1", "none"] = "l0"  # proximal operator on the guidance: l0, l1, or none
    l0_threshold: Literal["soft", "hard"] = "soft"  # as released; `hard` as the paper has it (F-BL-03)
    quantile: Quantile = 0.75  # lambda is this quantile of |delta|; below 0, minus lambda itself
    npi_interp: Share = 0.0  # negative embedding: 0 that of the source prompt ... 1 that of ""
    # What the source frame is inverted with (F-BL-08).
    source_prompt: Literal["empty", "fixed", "caption"] = "empty"
    source_text: str = ""  # of source_prompt=fixed

    def __post_init__(self) -> None:
        self.check(
            "source_text",
            "a text with source_prompt=fixed, and none with another",
            bool(self.source_text.strip()) == (self.source_prompt == "fixed"),
        )

    def check(self, name: str, allowed: str, good: bool) -> None:
        """Checks one of the section's values against others."""
        section = type(self).__name__.removesuffix("Config").lower()
        check(f"{section}.{name}", getattr(self, name), allowed, good)


@dataclass(frozen=True, config=SECTION)
class ProxNPIConfig(ProxConfig):
    """ProxNPI; the defaults are the released example's, with the quantile of PnPInversion's benchmark."""

    inversion_guidance: bool = True  # pull what is not edited towards the inverted path
    reconstruction_guidance: bool = False  # pull its predicted clean latent towards the source's
    recon_lr: Share = 1.0  # how far: 1 is all the way
    recon_t: Timestep = 400  # at timesteps below it; below 0, at timesteps above minus it
    dilate_mask: Cells = 1  # radius in latent cells by which the edited region grows
    # Prompt-to-Prompt; `replace` needs equal word counts.
    controller: Literal["refine", "replace", "none"] = "refine"
    cross_replace: Share = 0.4  # share of steps that take over the source's cross-attention
    self_replace: Share = 0.6  # share of steps that take over its self-attention
    # ... at all levels but the finest; `released`: to 32 x 32 tokens (F-BL-06).
    self_limit: Literal["scaled", "released"] = "scaled"
    reweight: dict[str, Number] = field(default_factory=dict)  # target's words -> factor of attention

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check("reweight", "none with controller=none", not self.reweight or self.controller != "none")


@dataclass(frozen=True, config=SECTION)
class ProxMasaCtrlConfig(ProxConfig):
    """ProxMasaCtrl; the defaults are those of the released example."""

    quantile: Quantile = 0.6  # lambda, as in proxnpi
    npi_interp: Share = 1.0  # above 0: of the target alone, and the source keeps its own prompt
    npi: bool = True  # negative embedding of both from the source prompt; False: from ""
    npi_step: Natural = 0  # the first steps, which have the negative embedding of ""
    prox_step: Natural = 0  # from this step on guidance is thresholded
    masa_step: Natural = 4  # from this step on, and from this block on (0 .. 15 in Stable Diffusion), ...
    masa_layer: Natural = 10  # of the self-attention blocks of the UNet, in order
    inject_uncond: Injected = "src"  # ... the target attends to the source's tokens: src, joint (both), none
    inject_cond: Injected = "src"  # the same, of the pass with the text
    query_intermediate: bool = False  # the source branch follows the inverted path


@dataclass(frozen=True, config=SECTION)
class PipelineConfig:
    """Any diffusers pipeline from a frame and a text to a frame, as it is."""

    resolution: Annotated[
        int,
        NUMBER,
        Field(ge=0, le=4096, multiple_of=8, description="a multiple of 8, up to 4096; 0 is its own"),
    ] = 0  # side of the square that it is given and draws; frames are written as other methods write them
    arguments: dict[str, Any] = field(default_factory=dict)  # of its call, by their names there

    def __post_init__(self) -> None:
        for name in self.arguments:
            ours = name in GIVEN
            check(f"pipeline.arguments.{name}", self.arguments[name], "none, the drawing gives it", not ours)
