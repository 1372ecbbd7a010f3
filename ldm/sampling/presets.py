"""Presets of drawing by name: each is a file of `configs/fast/`, which says what it is. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from egogen.shipped import find_config
from ldm.config.merge import load_config, validated
from ldm.config.sections import GenerateConfig, SamplingConfig
from ldm.diffusion.choices import check_timesteps, fits_ays

FOLDER = Path("configs/fast")


def read_preset(name: str) -> SamplingConfig:
    """The settings of a preset over the defaults."""
    return load_config(GenerateConfig, [find_config(FOLDER / f"{name}.yaml")]).sampling


def with_given(sampling: SamplingConfig, given: Mapping[str, object]) -> SamplingConfig:
    """A preset with what a person has asked for, which goes before it.

    The preset's timesteps give way to steps or a scheduler that they do not fit.

    Args:
        sampling: of the preset, as the checkpoint can be drawn.
        given: by name, as the section has it; None is not given.

    Raises:
        UserError: what is given does not fit together.
    """
    asked = {name: value for name, value in given.items() if value is not None}
    made = {**asdict(sampling), **asked}
    if "timesteps" not in asked and not fits_ays(made["scheduler"], made["steps"]):
        made["timesteps"] = "own"
    check_timesteps("--", made["timesteps"], made["scheduler"], made["steps"])
    return validated(SamplingConfig, made)
