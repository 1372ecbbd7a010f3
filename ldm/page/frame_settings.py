"""What a person asks of one frame: in requests, links, the JSON beside a picture, and for `ldm.edit`."""

from __future__ import annotations

import shlex
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from egogen.errors import UserError, shorten
from egogen.reserved import is_blank, unseen
from egogen.seeds import MOST_SEED
from ldm.sampling.edit_options import EditOptions

# What a page calls the things that `ldm.edit` has flags for.
WORDS = {
    "--cfg-text": "text guidance",
    "--cfg-image": "image guidance",
    "--steps": "steps",
    "--scheduler": "scheduler",
    "--resolution": "size",
    "--description": "description",
    "--prompt": "action",
    "--timesteps": "timesteps",
    "--preset": "passes",
}
Given = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]


class FrameSettings(BaseModel):
    """One frame; what is None is as the preset, the checkpoint or stage 1 say."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    action: str = Field(max_length=300)
    description: str | None = Field(default=None, max_length=2000)
    method: str | None = None
    seed: int = Field(default=0, ge=0, le=MOST_SEED)
    preset: Literal["fast", "balanced", "published"] | None = None
    steps: int | None = Field(default=None, ge=1)
    cfg_text: Given | None = None
    cfg_image: Given | None = None
    scheduler: str | None = Field(default=None, max_length=60, pattern=r"^\w+$")
    resolution: int | None = None

    @field_validator("action", "description")
    @classmethod
    def is_shown(cls, text: str | None) -> str | None:
        """Refuses signs that nobody sees: they would be in the command that is offered."""
        if text and (sign := unseen(text)):
            raise ValueError(f"it holds U+{ord(sign):04X}, a sign that is not shown; take it out")
        return text

    @field_validator("action")
    @classmethod
    def has_words(cls, action: str) -> str:
        """Refuses an action that says nothing."""
        if is_blank(action):
            raise ValueError("write an action, such as: open the drawer")
        return action.strip()

    @field_validator("description")
    @classmethod
    def or_none(cls, description: str | None) -> str | None:
        """A blank description is none."""
        return None if description is None or is_blank(description) else description.strip()


class Networks(NamedTuple):
    """What draws: `vllm` is None where no description is asked for or followed."""

    ckpt: Path
    config: Path | None
    vllm: Path | None
    no_ema: bool
    preset: str
    precision: str
    device: str
    vllm_python: Path


def read_settings(found: object) -> FrameSettings:
    """Reads one frame's settings.

    Raises:
        UserError: they are not as they must be; names the field.
    """
    try:
        return FrameSettings.model_validate(found)
    except ValidationError as error:
        fault = error.errors()[0]
        name = ".".join(map(str, fault["loc"])) or "frame"
        said = fault["msg"].removeprefix("Value error, ")
        raise UserError(f"{name}: got {shorten(fault['input'])}; {said}") from None


def edit_options(settings: FrameSettings, networks: Networks, photo: Path) -> EditOptions:
    """The same as `python -m ldm.edit` takes it: both draw one frame from it.

    Without stage 1 the description itself is the prompt, or where there is none the action.

    Raises:
        UserError: the settings do not fit together; in the page's words.
    """
    alone = networks.vllm is None
    try:
        return EditOptions(
            input=photo,
            output=Path("frame.png"),
            prompt=(settings.description or settings.action) if alone else settings.action,
            description=None if alone else settings.description,
            ckpt=networks.ckpt,
            config=networks.config,
            vllm=networks.vllm,
            no_ema=networks.no_ema,
            preset=settings.preset or networks.preset,
            precision=networks.precision,
            device=networks.device,
            vllm_python=networks.vllm_python,
            seed=settings.seed,
            steps=settings.steps,
            cfg_text=settings.cfg_text,
            cfg_image=settings.cfg_image,
            scheduler=settings.scheduler,
            resolution=settings.resolution,
        )
    except UserError as error:
        raise in_words(error) from None


def in_words(error: UserError) -> UserError:
    """A message on flags, in the page's words."""
    said = f"{error}"
    for flag, words in WORDS.items():
        said = said.replace(flag, words)
    return UserError(said)


def unusual(options: EditOptions, name: str) -> object | None:
    """What an option is; None where it is what the flag's default says."""
    usual = {each.name: each.metadata.get("default") for each in fields(options)}
    value: object = getattr(options, name)
    return None if value == usual[name] else value


def command(options: EditOptions, photo: str) -> str:
    """What a person types to draw the same pixels, with the photo under its own name."""
    words = ["bash", "scripts/run.sh", "ldm", "python", "-m", "ldm.edit", "--input", photo]
    given = {
        "--prompt": options.prompt,
        "--description": options.description,
        "--ckpt": options.ckpt,
        "--config": options.config,
        "--vllm": options.vllm,
        "--preset": options.preset,
        "--precision": options.precision,
        "--device": unusual(options, "device"),
        "--vllm-python": options.vllm and unusual(options, "vllm_python"),
        "--seed": options.seed,
        "--steps": options.steps,
        "--cfg-text": options.cfg_text,
        "--cfg-image": options.cfg_image,
        "--scheduler": options.scheduler,
        "--resolution": options.resolution,
        "--output": options.output,
    }
    for name, value in given.items():
        if value is not None:
            words += [f"{name}={value}"] if f"{value}".startswith("-") else [name, f"{value}"]
    return shlex.join(words + (["--no-ema"] if options.no_ema else []))
