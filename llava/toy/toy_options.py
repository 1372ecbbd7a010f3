"""The flags of `python -m llava.toy`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from egogen.cli import flag
from egogen.errors import UserError
from egogen.layout import FOLDERS
from egogen.seeds import read_seed


@dataclass(frozen=True)
class ToyLlavaOptions:
    """The command line. Numbers of batches decide the result; the time stops each training early."""

    data_root: Path = flag("folder with the toy world's EgoGen", type=Path, required=True)
    out: Path = flag("checkpoint folder; CLIP goes beside it", type=Path, required=True)
    dataset: str = flag("whose training frames to see", choices=[*FOLDERS, "both"], default="both")
    seed: int = flag("of weights and order", type=read_seed, default=0)
    vision_steps: int = flag("batches of CLIP's training", type=int, default=250)
    language_steps: int = flag("batches of LLaMA's training", type=int, default=180)
    seconds: float = flag("stop each of the two after this time", type=float, default=600.0)

    def __post_init__(self) -> None:
        for name in ("vision_steps", "language_steps", "seconds"):
            value = getattr(self, name)
            if value <= 0:
                raise UserError(f"--{name.replace('_', '-')} {value}: expected a number above 0")
