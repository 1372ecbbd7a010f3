"""Trains the diffusion model: YAML in, `RUN_ROOT/logs/<config>_<name>/` out; `main.py` is its other name."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from egogen import cli
from egogen.cli import flag
from egogen.disk import writing
from egogen.errors import UserError, check
from egogen.later import later
from egogen.layout import run_root

if TYPE_CHECKING:
    from ldm.training.run import train as train

__getattr__ = later(__name__, train="ldm.training.run")


@dataclass(frozen=True)
class TrainOptions:
    """The reference's flags."""

    name: str = flag("of the run; one of the same name is resumed", spelled=("-n", "--name"), default="")
    base: list[str] = flag(
        "configuration files, merged left to right; then key.sub=value words",
        spelled=("-b", "--base"),
        nargs="+",
        default=[],
        metavar="YAML",
    )
    train: bool = flag("or only check settings and data", spelled=("-t", "--train"), action="store_true")
    gpus: str = flag("GPUs to use, of each node; none is the CPU", default="", metavar="0,1,...")
    resume: Path | None = flag("checkpoint, or folder of a run", spelled=("-r", "--resume"), type=Path)
    seed: int | None = flag("by default trainer.seed of the YAML", spelled=("-s", "--seed"), type=int)
    logdir: Path = flag(
        "folder of all runs", spelled=("-l", "--logdir"), type=Path, default=lambda: run_root() / "logs"
    )
    project: str = flag("folder inside --logdir that groups runs", spelled=("-p", "--project"), default="")
    postfix: str = flag("added to the run's folder name", spelled=("-f", "--postfix"), default="")
    scale_lr: bool = flag("rate times effective batch", spelled=("--scale_lr",), action="store_true")
    no_test: bool = flag("accepted as the reference does; there is no test phase", action="store_true")
    overrides: list[str] = flag("settings", positional=True, nargs="*", default=[], metavar="key=value")

    def __post_init__(self) -> None:
        for name in ("name", "postfix"):
            check(f"--{name}", getattr(self, name), "part of a folder's name", "/" not in getattr(self, name))


def main(argv: Sequence[str] | None = None) -> None:
    """Parses, builds, trains."""
    options = cli.options(TrainOptions, argv, "python main.py", __doc__)
    from ldm.config.merge import load_config, split_words
    from ldm.config.sections import TrainConfig

    files, words = split_words(options.base)
    if not files:
        raise UserError("--base: give at least one YAML file, such as configs/train_ego4d.yaml")
    words += options.overrides
    if options.seed is not None:
        words.append(f"trainer.seed={options.seed}")
    config = load_config(TrainConfig, files, words)
    if not config.model.start:
        raise UserError(
            f"{files[-1]}: model.start names no checkpoint; set it to the file training starts from"
        )
    if options.scale_lr:
        rate = config.optimizer.lr * config.trainer.effective_batch
        config = replace(config, optimizer=replace(config.optimizer, lr=rate))
    from egogen.locks import hold
    from ldm.training.launch import is_first, is_requeued
    from ldm.training.run import parse_gpus, train

    gpus = parse_gpus(options.gpus)
    name = "_".join(part for part in (files[0].stem, options.name, options.postfix) if part)
    run = options.logdir / options.project / name
    guarded = is_first() and options.train
    # The job before a requeued one is about to end.
    with hold(run, "training", wait=is_requeued()) if guarded else nullcontext(), writing(run):
        train(config, run, gpus, options.resume, options.train)


if __name__ == "__main__":
    cli.run(main)
