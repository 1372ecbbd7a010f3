"""The flags of `python -m ldm.edit`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from egogen.cli import flag
from egogen.errors import UserError, check
from egogen.layout import run_root
from egogen.reserved import text_fault
from ldm.diffusion.choices import PUBLISHED, check_scale, check_steps
from ldm.networks.devices import HELP

NAME_LENGTH = 25  # of each half of a frame's name: with four bytes a letter it fits a file system
RESOLUTION = 256  # of the published checkpoints, which do not state it
MAX_SIDE = 4096
FORMATS = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".webp": "WEBP"}


@dataclass(frozen=True)
class EditOptions:
    """The reference's flags, and ours."""

    input: Path = flag("the photo", type=Path, required=True)
    prompt: str = flag("the action, such as 'open the drawer'", required=True)
    output: Path | None = flag(".png, .jpg or .webp [RUN_ROOT/edits/<photo>_<prompt>.png]", type=Path)
    ckpt: Path = flag("checkpoint, a file or a diffusers folder", type=Path, required=True)
    config: Path | None = flag("YAML with what no tensor of a file tells [read off it]", type=Path)
    steps: int = flag("sampling steps", type=int, default=100)
    resolution: int | None = flag(
        f"side of the square that is drawn [the checkpoint's own where it states one, else {RESOLUTION}]",
        type=int,
    )
    seed: int = flag("of the noise", type=int, default=0)
    cfg_text: float = flag("guidance by text and features, s_T", type=float, default=7.5)
    cfg_image: float = flag("guidance by the photo, s_I", type=float, default=1.5)
    scheduler: str = flag("or dpmpp_2m, unipc, ddim, euler ...", default=PUBLISHED)
    vllm: Path | None = flag("folder of a fine-tuned VLLM", type=Path)
    vllm_python: Path = flag("Python of stage 1", type=Path, default=Path(".venvs/vllm/bin/python"))
    image_feature: Path | None = flag("image feature file of the photo", type=Path)
    text_feature: Path | None = flag("text feature file of the description in --prompt", type=Path)
    device: str = flag(HELP, default="auto")
    no_ema: bool = flag("the last weights, not their moving average", action="store_true")

    def __post_init__(self) -> None:
        check_steps("--steps", self.steps)
        check_scale("--cfg-text", self.cfg_text)
        check_scale("--cfg-image", self.cfg_image)
        side = self.resolution
        allowed = f"a multiple of 16, up to {MAX_SIDE}"
        check("--resolution", side, allowed, side is None or (side % 16 == 0 and 0 < side <= MAX_SIDE))
        kind = self.target.suffix.lower()
        check("--output", str(self.target), f"a name that ends in {', '.join(FORMATS)}", kind in FORMATS)
        if self.target.exists() and self.input.exists() and self.target.samefile(self.input):
            raise UserError(f"--output {self.target}: is the photo itself, which would be lost")
        if (self.image_feature is None) != (self.text_feature is None):
            raise UserError("--image-feature and --text-feature: give both or neither")
        if self.vllm and (fault := text_fault(self.prompt)):
            raise UserError(f"--prompt {self.prompt!r}: {fault}")
        if self.vllm and self.image_feature:
            raise UserError("--vllm makes what --image-feature and --text-feature name; give one of the two")

    @property
    def target(self) -> Path:
        """Where the frame goes."""
        words = "_".join(re.findall(r"\w+", self.prompt))[:NAME_LENGTH]
        return self.output or run_root() / "edits" / f"{self.input.stem[:NAME_LENGTH]}_{words}.png"
