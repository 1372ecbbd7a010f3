"""The flags of `python app.py`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from egogen.cli import flag
from egogen.errors import UserError, check
from ldm.diffusion.choices import PRESETS, Precision
from ldm.networks.devices import HELP

LOOPBACK = ("127.0.0.1", "localhost", "::1")
SPLIT = "="  # between a method's name and its checkpoint


@dataclass(frozen=True)
class PageOptions:
    """What is loaded, who may come, and how much each may ask for."""

    ckpt: Path | None = flag(
        "checkpoint, a file or a diffusers folder [the newest of RUN_ROOT/toy, else the toy start]", type=Path
    )
    config: Path | None = flag("YAML with what no tensor of --ckpt tells [read off it]", type=Path)
    vllm: Path | None = flag(
        "folder of a fine-tuned VLLM; with --ckpt and without it, descriptions are typed by hand", type=Path
    )
    vllm_python: Path = flag("Python of stage 1", type=Path, default=Path(".venvs/vllm/bin/python"))
    compare: list[str] = flag(
        "other checkpoints to draw beside it", nargs="+", metavar="NAME=CKPT", default=[]
    )
    no_ema: bool = flag("the last weights, not their moving averages", action="store_true")
    preset: str = flag("passes that the page begins with", choices=PRESETS, default=PRESETS[0])
    device: str = flag(f"{HELP}; of both stages", default="auto")
    precision: str = flag(
        "numbers that are computed with", choices=get_args(Precision), default=get_args(Precision)[0]
    )
    batch: int | None = flag(
        "frames drawn in one pass of the networks [8 on a GPU; 1 on a CPU, which gains little by more]",
        type=int,
    )
    host: str = flag("address to listen on; 0.0.0.0 lets the network in", default=LOOPBACK[0])
    port: int = flag("0 takes any that is free", type=int, default=7860)
    max_waiting: int = flag("frames that may wait; who comes then is told so", type=int, default=64)
    max_frames: int = flag("frames that one request may ask for", type=int, default=16)
    max_mb: float = flag("largest upload, in MB", type=float, default=20.0)
    max_megapixels: float = flag("largest photo", type=float, default=50.0)
    max_side: int = flag("largest square that is drawn, in pixels", type=int, default=768)
    max_steps: int = flag("most sampling steps", type=int, default=200)
    keep: int = flag("drawn frames that are kept for the page, the newest", type=int, default=1000)

    def __post_init__(self) -> None:
        check("--port", self.port, "0 to 65535", 0 <= self.port <= 65535)
        for name in ("max_waiting", "max_frames", "max_side", "max_steps", "keep"):
            value = getattr(self, name)
            check(f"--{name.replace('_', '-')}", value, "at least 1", value >= 1)
        check("--batch", self.batch, "1 to 64", self.batch is None or 1 <= self.batch <= 64)
        for name in ("max_mb", "max_megapixels"):
            value = getattr(self, name)
            check(f"--{name.replace('_', '-')}", value, "above 0, up to 1000", 0 < value <= 1000)
        if self.vllm and not self.ckpt:
            raise UserError("--vllm: goes with --ckpt, which was trained on its features; give both")
        if self.config and not self.ckpt:
            raise UserError("--config: goes with --ckpt; give both")
        self.others()

    def others(self) -> dict[str, Path]:
        """Names and checkpoints of `--compare`.

        Raises:
            UserError: one is not of the form, or a name is given twice.
        """
        found: dict[str, Path] = {}
        for word in self.compare:
            name, split, path = word.partition(SPLIT)
            check("--compare", word, "NAME=CKPT", bool(name and split and path))
            check("--compare", word, "each name once, and not LEGO", name not in {*found, "LEGO"})
            found[name] = Path(path)
        return found

    @property
    def is_private(self) -> bool:
        """Whether this machine alone can come."""
        return self.host in LOOPBACK
