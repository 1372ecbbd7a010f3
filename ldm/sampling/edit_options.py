"""The flags of `python -m ldm.edit`: of one photo, of many, and those of both."""

from __future__ import annotations

import math
import re
from argparse import ArgumentTypeError
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from egogen.cli import flag
from egogen.errors import UserError, check
from egogen.hints import blocking
from egogen.layout import run_root
from egogen.reserved import is_blank, text_fault
from egogen.seeds import read_seed
from ldm.diffusion.choices import (
    DDIM_TRAILING,
    PRESETS,
    Precision,
    Timesteps,
    check_interval,
    check_scale,
    check_steps,
)
from ldm.networks.devices import HELP

if TYPE_CHECKING:
    from ldm.config.sections import SamplingConfig
    from ldm.networks.distilled import Distilled

NAME_LENGTH = 25  # of each half of a frame's name: with four bytes a letter it fits a file system
HIGHEST = 1e9  # noise level; above all there are
RESOLUTION = 256  # of the published checkpoints, which do not state it
MAX_SIDE = 4096
COLUMNS = ("photo", "action", "description", "seed", "output")  # of a table
FORMATS = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".webp": "WEBP"}


@dataclass(frozen=True)
class DrawingOptions:
    """How frames are drawn, of one photo or of many."""

    ckpt: Path = flag("checkpoint, a file or a diffusers folder", type=Path, required=True)
    config: Path | None = flag("YAML with what no tensor of a file tells [read off it]", type=Path)
    preset: str = flag(
        "few passes, the table's 300, or between (configs/fast/); the flags below go before it, as do the "
        "steps of a distilled checkpoint",
        choices=PRESETS, default=PRESETS[0],
    )  # fmt: skip
    steps: int | None = flag("sampling steps [the preset's]", type=int)
    resolution: int | None = flag(
        f"side of the square that is drawn [the checkpoint's own where it states one, else {RESOLUTION}]",
        type=int,
    )
    seed: int = flag("of the noise", type=read_seed, default=0)
    cfg_text: float | None = flag(
        "guidance by text and features, s_T [the checkpoint's own where it states one, else 7.5]", type=float
    )
    cfg_image: float | None = flag("guidance by the photo, s_I [likewise, else 1.5]", type=float)
    interval_text: list[float] | None = flag(
        "noise levels at which s_T acts [the preset's]", type=float, nargs=2, metavar=("LOW", "HIGH")
    )
    interval_image: list[float] | None = flag(
        "noise levels at which s_I acts [the preset's]", type=float, nargs=2, metavar=("LOW", "HIGH")
    )
    scheduler: str | None = flag("euler_ancestral, dpmpp_2m, unipc, ddim, euler ... [the preset's]")
    timesteps: str | None = flag(
        "the scheduler's own, or ten that were optimised [the preset's]", choices=get_args(Timesteps)
    )
    lora: list[Path] = flag(
        "LoRA files that are added to the checkpoint, of ldm's or of other programs", type=Path, nargs="+",
        default=[], metavar="FILE",
    )  # fmt: skip
    lora_weight: list[float] = flag("how much of each [1]", type=float, nargs="+", default=[], metavar="W")
    precision: str = flag(
        "numbers that are computed with: 16 bits where they are faster, or as said",
        choices=get_args(Precision),
        default=get_args(Precision)[0],
    )
    vllm: Path | None = flag("folder of a fine-tuned VLLM", type=Path)
    description: str | None = flag(
        "with --vllm: how the action is done, in place of the text that stage 1 would write for --prompt"
    )
    vllm_python: Path = flag("Python of stage 1", type=Path, default=Path(".venvs/vllm/bin/python"))
    image_feature: Path | None = flag("image feature file of the photo", type=Path)
    text_feature: Path | None = flag("text feature file of the description in --prompt", type=Path)
    device: str = flag(HELP, default="auto")
    no_ema: bool = flag("the last weights, not their moving average", action="store_true")

    def __post_init__(self) -> None:
        if self.steps is not None:
            check_steps("--steps", self.steps)
        for name, scale in (("--cfg-text", self.cfg_text), ("--cfg-image", self.cfg_image)):
            if scale is not None:
                check_scale(name, scale)
        given, weights = [*self.lora], [*self.lora_weight]
        check("--lora-weight", weights, "a number for each --lora", not weights or len(weights) == len(given))
        for path in given:
            if not path.exists():
                raise UserError(f"--lora {path}: no such file")
        check_interval("--interval-text", self.interval_text)
        check_interval("--interval-image", self.interval_image)
        self.sampling()
        side = self.resolution
        allowed = f"a multiple of 8, up to {MAX_SIDE}"
        check("--resolution", side, allowed, side is None or (side % 8 == 0 and 0 < side <= MAX_SIDE))
        if (self.image_feature is None) != (self.text_feature is None):
            raise UserError("--image-feature and --text-feature: give both or neither")
        if self.description is not None and not self.vllm:
            raise UserError(
                "--description: its features are made by --vllm; without stage 1 give these words to --prompt"
            )
        if self.description is not None and (fault := text_fault(self.description)):
            raise UserError(f"--description {self.description!r}: {fault}")
        if self.vllm and self.image_feature:
            raise UserError("--vllm makes what --image-feature and --text-feature name; give one of the two")

    def sampling(
        self, distilled: Distilled | None = None, guidance: list[float] | None = None
    ) -> SamplingConfig:
        """The preset, as a checkpoint can be drawn with it, and over it what is asked for.

        Args:
            distilled: what the checkpoint was distilled for.
            guidance: s_T and s_I that it states.

        Raises:
            UserError: it does not fit together.
        """
        from ldm.sampling.drawing_config import adapted
        from ldm.sampling.presets import read_preset, with_given

        scales = {
            "scales_txt": told(self.cfg_text, guidance, 0),
            "scales_img": told(self.cfg_image, guidance, 1),
        }
        preset = with_given(read_preset(self.preset), scales)  # so that no change is told that does not count
        made = with_given(
            adapted(preset, distilled) if distilled and preset.adapt else preset,
            {
                **scales,  # as they are asked for, to be refused where they do not fit
                "scheduler": self.scheduler,
                "steps": self.steps,
                "timesteps": self.timesteps,
                "interval_txt": finite(self.interval_text),
                "interval_img": finite(self.interval_image),
                "precision": self.precision,
                "loras": [
                    {"path": f"{path}", "weight": weight}
                    for path, weight in zip(
                        self.lora, self.lora_weight or [1.0] * len(self.lora), strict=True
                    )
                ],
            },
        )
        if distilled:  # now, and not after stage 1 has described
            distilled.check_scales(made.scales_txt[0], made.scales_img[0], ("--cfg-text", "--cfg-image"))
            distilled.check_steps("--steps", made.steps)
            fits = not distilled.phases or self.scheduler in (None, DDIM_TRAILING)
            check("--scheduler", self.scheduler, f"{DDIM_TRAILING}, as for all checkpoints of phases", fits)
            given = made.interval_txt or made.interval_img
            allowed = "none: a distilled checkpoint is guided at all noise levels"
            check("--interval-text, --interval-image", given, allowed, not given)
            made = replace(made, scheduler=distilled.scheduler(made.scheduler))
        return made


def told(asked: float | None, stated: list[float] | None, place: int) -> list[float] | None:
    """A scale that is asked for, else the one that the checkpoint states."""
    if asked is None:
        return None if stated is None else [stated[place]]
    return [asked]


@dataclass(frozen=True)
class OnePhoto:
    """One photo, its action, and the frame."""

    input: Path = flag("the photo", type=Path, required=True)
    prompt: str = flag("the action, such as 'open the drawer'", required=True)
    output: Path | None = flag("the frame", type=Path)

    @property
    def target(self) -> Path:
        """Where the frame goes; without `--output`, unless a file is there already."""
        return self.output or run_root() / "edits" / frame_name(self.input, self.prompt)


@dataclass(frozen=True)
class EditOptions(DrawingOptions, OnePhoto):
    """What draws one photo."""

    def __post_init__(self) -> None:
        super().__post_init__()
        kind = self.target.suffix.lower()
        check("--output", str(self.target), f"a name that ends in {', '.join(FORMATS)}", kind in FORMATS)
        out = self.output  # without it, what is there is kept
        if out and out.exists() and self.input.exists() and out.samefile(self.input):
            raise UserError(f"--output {out}: is the photo itself, which would be lost")
        if file := blocking(self.target):  # before hours of drawing, and not after
            raise UserError(f"--output {self.target}: {file} is a file, expected a folder")
        check_prompt(self.prompt, bool(self.vllm))


@dataclass(frozen=True)
class PhotoList:
    """Photos and actions as the command takes them: one photo, several, folders, or a table."""

    input: Sequence[Path] = flag(
        "the photo; or photos and folders, which are drawn with one action; or a .csv with the columns "
        f"{', '.join(COLUMNS[:2])} and, if wanted, {', '.join(COLUMNS[2:])}",
        type=Path, nargs="+", required=True,
    )  # fmt: skip
    prompt: str | None = flag("the action, such as 'open the drawer'; with a .csv the rows have it")
    output: Path | None = flag(
        ".png, .jpg or .webp [RUN_ROOT/edits/<photo>_<prompt>.png; where that is taken, ..._2.png and so "
        "on]; of many photos the folder, in which a second run goes on",
        type=Path,
    )
    batch_size: int = flag("of many photos: how many at a time", type=int, default=4)


@dataclass(frozen=True)
class PhotoListOptions(DrawingOptions, PhotoList):
    """What the command is asked for."""

    def __post_init__(self) -> None:
        if self.prompt is None and not self.is_table:
            raise ArgumentTypeError("the following arguments are required: --prompt")
        super().__post_init__()
        check("--batch-size", self.batch_size, "at least 1", self.batch_size > 0)
        if self.is_one:
            return
        if self.output is None:
            raise UserError("--output: needed for more than one photo; name the folder of the frames")
        if self.image_feature:
            raise UserError("--image-feature, --text-feature: of one photo alone; for many, give --vllm")
        if not self.is_table and any(map(is_table, self.input)):
            raise UserError("--input: a .csv stands alone; write the other photos into it")
        for name, value in (("--prompt", self.prompt), ("--description", self.description)):
            if self.is_table and value is not None:
                raise UserError(f"{name} {value!r}: each row of {self.input[0]} has its own; leave it out")
        if self.prompt is not None:
            check_prompt(self.prompt, bool(self.vllm))

    @property
    def is_table(self) -> bool:
        """Whether a table says what is drawn."""
        return len(self.input) == 1 and is_table(self.input[0])

    @property
    def is_one(self) -> bool:
        """Whether it is one photo, whose frame is a file."""
        return len(self.input) == 1 and not self.is_table and not self.input[0].is_dir()

    def one(self) -> EditOptions:
        """The same of the one photo.

        Raises:
            UserError: `--output` is none for it.
        """
        values = {each.name: getattr(self, each.name) for each in fields(EditOptions)}
        return EditOptions(**{**values, "input": self.input[0]})


def check_prompt(text: str, is_asked: bool) -> None:
    """Refuses an action without words and, where stage 1 is asked, one that it does not read as it stands."""
    fault = text_fault(text) if is_asked or is_blank(text) else None
    if fault:
        raise UserError(f"--prompt {text!r}: {fault}")


def is_table(path: Path) -> bool:
    """Whether a path is that of a table of photos and actions."""
    return path.suffix.lower() == ".csv" and not path.is_dir()


def frame_name(photo: Path, action: str) -> str:
    """A frame's file name where nobody names it."""
    words = "_".join(re.findall(r"\w+", action))[:NAME_LENGTH]
    return f"{photo.stem[:NAME_LENGTH].strip()}_{words}.png"  # tables lose blanks around a name


def finite(interval: list[float] | None) -> list[float] | None:
    """An interval as settings have it: from 0 to infinity is none."""
    if interval is None or interval[1] < math.inf:
        return interval
    return [] if interval[0] <= 0 else [interval[0], HIGHEST]
