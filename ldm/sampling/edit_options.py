"""The flags of `python -m ldm.edit`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from egogen.cli import flag
from egogen.errors import UserError, check
from egogen.reserved import text_fault
from ldm.diffusion.choices import PUBLISHED
from ldm.networks.devices import HELP

FORMATS = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".webp": "WEBP"}


@dataclass(frozen=True)
class EditOptions:
    """The reference's flags, and ours."""

    input: Path = flag("the photo", type=Path, required=True)
    prompt: str = flag("the action, such as 'open the drawer'", required=True)
    output: Path = flag(".png, .jpg or .webp", type=Path, default=Path("action.png"))
    ckpt: Path = flag("checkpoint, a file or a diffusers folder", type=Path, required=True)
    config: Path | None = flag("YAML with what no tensor of a file tells [read off it]", type=Path)
    steps: int = flag("sampling steps", type=int, default=100)
    resolution: int = flag("side of the square that is drawn", type=int, default=256)
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
        check("--steps", self.steps, "at least 1", self.steps >= 1)
        side = self.resolution
        check("--resolution", side, "a positive multiple of 16", side % 16 == 0 < side)
        kind = self.output.suffix.lower()
        check("--output", str(self.output), f"a name that ends in {', '.join(FORMATS)}", kind in FORMATS)
        if (self.image_feature is None) != (self.text_feature is None):
            raise UserError("--image-feature and --text-feature: give both or neither")
        if self.vllm and (fault := text_fault(self.prompt)):
            raise UserError(f"--prompt {self.prompt!r}: {fault}")
        if self.vllm and self.image_feature:
            raise UserError("--vllm makes what --image-feature and --text-feature name; give one of the two")
