"""Settings of the baselines: sections `sdedit`, `proxnpi` and `proxmasactrl` of a drawing configuration."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf, isfinite

from egogen.errors import check, check_choice
from ldm.diffusion.ddim import Grid

MAX_STEPS = 999  # timestep 1000 is not in the training schedule


@dataclass
class SDEditConfig:
    """SDEdit (Meng et al. 2022) with Stable Diffusion; the defaults are those of CompVis' img2img script."""

    strength: float = 0.75  # t_0, as a share of the steps
    steps: int = 50
    guidance: float = 5.0
    noise_level: str = "compvis"  # a grid step above the first call; `matched` as diffusers (F-BL-01)

    def __post_init__(self) -> None:
        check("sdedit.steps", self.steps, f"1 to {MAX_STEPS}", 1 <= self.steps <= MAX_STEPS)
        check("sdedit.strength", self.strength, "0 to 1", 0 <= self.strength <= 1)
        check("sdedit.guidance", self.guidance, "a finite number", isfinite(self.guidance))
        check_choice("sdedit.noise_level", self.noise_level, "compvis", "matched")
        levels = len(Grid(self.steps).timesteps)
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


@dataclass
class ProxConfig:
    """What both variants of ProxEdit (Han et al. 2024) share."""

    steps: int = 50
    guidance: float = 7.5  # w
    prox: str = "l0"  # proximal operator on the guidance: l0, l1, or none
    l0_threshold: str = "soft"  # as released; `hard` as the paper has it (F-BL-03)
    quantile: float = 0.75  # lambda is this quantile of |delta|; below 0, minus lambda itself
    npi_interp: float = 0.0  # negative embedding: 0 that of the source prompt ... 1 that of ""
    source_prompt: str = "empty"  # what the source frame is inverted with: empty, fixed, caption (F-BL-08)
    source_text: str = ""  # of source_prompt=fixed

    def __post_init__(self) -> None:
        self.check("steps", f"1 to {MAX_STEPS}", 1 <= self.steps <= MAX_STEPS)
        self.check("guidance", "a finite number", isfinite(self.guidance))
        self.check("quantile", "at most 1, and finite", -inf < self.quantile <= 1)
        self.check("npi_interp", "0 to 1", 0 <= self.npi_interp <= 1)
        self.check("prox", "l0, l1, none", self.prox in ("l0", "l1", "none"))
        self.check("l0_threshold", "soft, hard", self.l0_threshold in ("soft", "hard"))
        self.check(
            "source_prompt", "empty, fixed, caption", self.source_prompt in ("empty", "fixed", "caption")
        )
        self.check(
            "source_text",
            "a text with source_prompt=fixed, and none with another",
            bool(self.source_text.strip()) == (self.source_prompt == "fixed"),
        )

    def check(self, name: str, allowed: str, good: bool) -> None:
        """Checks one of the section's values."""
        section = type(self).__name__.removesuffix("Config").lower()
        check(f"{section}.{name}", getattr(self, name), allowed, good)


@dataclass
class ProxNPIConfig(ProxConfig):
    """ProxNPI; the defaults are the released example's, with the quantile of PnPInversion's benchmark."""

    inversion_guidance: bool = True  # pull what is not edited towards the inverted path
    reconstruction_guidance: bool = False  # pull its predicted clean latent towards the source's
    recon_lr: float = 1.0  # how far: 1 is all the way
    recon_t: int = 400  # at timesteps below it; below 0, at timesteps above minus it
    dilate_mask: int = 1  # radius in latent cells by which the edited region grows
    controller: str = "refine"  # Prompt-to-Prompt: refine, replace (equal word counts), none
    cross_replace: float = 0.4  # share of steps that take over the source's cross-attention
    self_replace: float = 0.6  # share of steps that take over its self-attention
    self_limit: str = "scaled"  # ... at all levels but the finest; `released`: to 32 x 32 tokens (F-BL-06)
    reweight: dict[str, float] = field(default_factory=dict)  # target's words -> factor of attention

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check("recon_lr", "0 to 1", 0 <= self.recon_lr <= 1)
        self.check("dilate_mask", "0 or more", self.dilate_mask >= 0)
        self.check("controller", "refine, replace, none", self.controller in ("refine", "replace", "none"))
        self.check("cross_replace", "0 to 1", 0 <= self.cross_replace <= 1)
        self.check("self_replace", "0 to 1", 0 <= self.self_replace <= 1)
        self.check("self_limit", "scaled, released", self.self_limit in ("scaled", "released"))
        self.check("reweight", "finite factors", all(map(isfinite, self.reweight.values())))
        self.check("reweight", "none with controller=none", not self.reweight or self.controller != "none")


@dataclass
class ProxMasaCtrlConfig(ProxConfig):
    """ProxMasaCtrl; the defaults are those of the released example."""

    quantile: float = 0.6
    npi_interp: float = 1.0  # above 0: of the target alone, and the source keeps its own prompt
    npi: bool = True  # negative embedding of both from the source prompt; False: from ""
    npi_step: int = 0  # the first steps, which have the negative embedding of ""
    prox_step: int = 0  # from this step on guidance is thresholded
    masa_step: int = 4  # from this step on, and from this block on (0 .. 15 in Stable Diffusion), ...
    masa_layer: int = 10
    inject_uncond: str = "src"  # ... the target attends to the source's tokens: src, joint (both), none
    inject_cond: str = "src"
    query_intermediate: bool = False  # the source branch follows the inverted path

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("npi_step", "prox_step", "masa_step", "masa_layer"):
            self.check(name, "0 or more", getattr(self, name) >= 0)
        for name in ("inject_uncond", "inject_cond"):
            self.check(name, "src, joint, none", getattr(self, name) in ("src", "joint", "none"))
