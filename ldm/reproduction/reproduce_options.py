"""The flags of a reproduction, and the paths that follow from them."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from egogen.cli import flag
from egogen.errors import UserError, check, check_choice
from egogen.layout import Layout, data_root, run_root, weights_root
from ldm.metrics.metric_names import KEYS, choice, metric_names
from ldm.reproduction.released import DIFFUSION, PAPER, RELEASED, VLLM, Released

CHECKPOINTS, FEATURES, FRAMES = "checkpoints", "features", "frames"
PARTS = ("fetch", "work")
METRICS = [name for name in KEYS if not name.startswith("toy_")]


@dataclass(frozen=True)
class ReproduceOptions:
    """What is reproduced, how much of it is the authors', and on what."""

    dataset: str = flag("ego4d or epickitchen", positional=True)
    taken: str = flag(
        f"what is the authors' besides frames and labels. {CHECKPOINTS}: both tuned models, which describe "
        f"and draw here; {FEATURES}: stage 1's descriptions and features, and the tuned diffusion model, "
        f"which draws here; {FRAMES}: curated texts alone, both stages are tuned here from LLaVA and Stable "
        "Diffusion 1.5",
        spelled=("--from",), dest="taken", default=CHECKPOINTS, metavar="WHAT",
    )  # fmt: skip
    metrics: list[str] | None = flag(
        f"comma-separated: {','.join(METRICS)}; without it, those of the paper's table",
        type=lambda words: [name.strip() for name in words.split(",")],
    )
    vllm: Path | None = flag("a tuned LLaVA instead of the released one", type=Path)
    ckpt: Path | None = flag("a tuned diffusion model instead of the released one", type=Path)
    gpus: int | None = flag("GPUs of this machine that work [all]", type=int, metavar="N")
    slurm: int | None = flag("describe and draw as Slurm arrays of N tasks", type=int, metavar="N")
    sbatch: str = flag(
        'options of a Slurm task, as in --sbatch="--gres=gpu:1 --time=4:00:00"', default="--gres=gpu:1"
    )
    dry_run: bool = flag(
        "print every command, with disk, memory and hours; nothing is asked, fetched or written",
        action="store_true",
    )
    steps: str | None = flag(
        "print the steps of a part for scripts/reproduce.sh instead", choices=PARTS, metavar="|".join(PARTS)
    )

    def __post_init__(self) -> None:
        Layout(data_root(), self.dataset)  # names a wrong data set
        check_choice("--from", self.taken, CHECKPOINTS, FEATURES, FRAMES)
        for name in metric_names(self.metrics or ()):
            choice("metric", name, METRICS)
        check("--gpus", self.gpus, "0 or more", self.gpus is None or self.gpus >= 0)
        check("--slurm", self.slurm, "1 or more", self.slurm is None or self.slurm >= 1)
        for name, path in self.own.items():
            good = path.exists() if name == "ckpt" else path.is_dir()
            what = "a checkpoint" if name == "ckpt" else "the folder of a tuned LLaVA"
            check(f"--{name}", f"{path}", f"{what} that is there", good)
        if self.vllm and self.taken != CHECKPOINTS:
            raise UserError(
                f"--vllm: nothing is described by it with --from {self.taken}; leave one of them out"
            )
        if self.ckpt and self.taken == FRAMES:
            raise UserError(f"--ckpt: with --from {FRAMES} the model is trained here; leave one of them out")

    @property
    def released(self) -> Released:
        """What there is of the data set."""
        return RELEASED[self.dataset]

    @property
    def measured(self) -> list[str]:
        """The metrics, in the table's order."""
        asked = metric_names(self.metrics or PAPER)
        return [name for name in METRICS if name in asked]

    @property
    def work(self) -> Path:
        """Where all goes that is made."""
        return run_root() / "reproduce" / f"{self.dataset}-{self.taken}"

    @property
    def own(self) -> dict[str, Path]:
        """The models that take the place of released ones, by their flags."""
        return {name: path for name, path in (("vllm", self.vllm), ("ckpt", self.ckpt)) if path}

    @property
    def own_names(self) -> str:
        """The same in words, for a row or a title; empty without any."""
        return " and ".join(f"own {name} {path.absolute().name}" for name, path in self.own.items())

    @property
    def settings(self) -> str:
        """What a folder that was begun must go on with."""
        own = [f"{name} {path}" for name, path in self.own.items()]
        return ", ".join([self.dataset, f"from {self.taken}", *own])

    @cached_property
    def devices(self) -> int:
        """How many GPUs work."""
        return visible_gpus() if self.gpus is None else self.gpus

    @property
    def lanes(self) -> int:
        """How many GPUs describe and draw at a time; 0 for the CPU."""
        return self.slurm or self.devices

    @property
    def device(self) -> list[str]:
        """The flag that keeps describing, drawing and measuring on the CPU, if that is asked for."""
        return ["--device", "cpu"] if self.gpus == 0 and not self.slurm else []

    @property
    def who(self) -> str:
        """Who describes and draws."""
        if self.slurm:
            return f"{self.slurm} Slurm tasks"
        return f"{self.devices} GPU{'s' * (self.devices > 1)}" if self.devices else "no GPU"

    @property
    def task_options(self) -> list[str]:
        """The options of a Slurm task, as words."""
        return shlex.split(self.sbatch)

    def measuring(self, name: str) -> str:
        """Name of a step that depends on the metrics: with other ones it is another step."""
        own = self.measured
        return name if own == list(PAPER) else "-".join([name, *own])

    def model(self) -> Path:
        """The LLaVA that describes."""
        return self.vllm or weights_root() / self.released.folder / VLLM

    def diffusion(self) -> Path:
        """The checkpoint that draws; the released one's first word is known when it is there.

        Raises:
            UserError: several files might be it.
        """
        if self.ckpt:
            return self.ckpt
        folder = weights_root() / self.released.folder
        found = sorted(folder.glob(DIFFUSION))
        if len(found) > 1:
            raise UserError(f"{found[0]} and {found[1]}: one of them was expected; choose by --ckpt FILE")
        return found[0] if found else folder / DIFFUSION.replace("*", self.dataset)


def visible_gpus() -> int:
    """The GPUs of this machine that processes may use, without a library."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return len([each for each in chosen.split(",") if each.strip() not in ("", "-1")])
    lister = shutil.which("nvidia-smi")
    if lister is None:
        return 0
    try:
        shown = subprocess.run(  # noqa: S603 - the driver's own program
            [lister, "-L"], capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return sum(line.startswith("GPU ") for line in shown.stdout.splitlines())
