"""The flags of `main.py`, which `python -m ldm.distill` shares, and what is made of them. No torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from egogen.cli import flag
from egogen.disk import writing
from egogen.errors import UserError, check
from egogen.layout import run_root
from egogen.seeds import read_seed

if TYPE_CHECKING:
    from ldm.config.sections import TrainConfig

    Config = TypeVar("Config", bound=TrainConfig)


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
    seed: int | None = flag("by default trainer.seed of the YAML", spelled=("-s", "--seed"), type=read_seed)
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
        inside = not Path(self.project).is_absolute() and ".." not in Path(self.project).parts
        check("--project", self.project, "a folder inside --logdir", inside)

    def read(self, kind: type[Config], advice: str, start: Path | None = None) -> tuple[Config, Path]:
        """The settings, and the run's folder.

        Args:
            kind: of the settings.
            advice: how a person names the checkpoint that training starts from.
            start: that checkpoint, where a flag names it.

        Raises:
            UserError: no YAML file, or a bad one; or no checkpoint to start from.
        """
        from ldm.config.merge import flag_word, load_config, split_words
        from ldm.training.early_checks import check_early

        files, words = split_words(self.base)
        if not files:
            raise UserError("--base: give at least one YAML file, such as configs/train_ego4d.yaml")
        words += self.overrides
        if self.seed is not None:
            words.append(flag_word("--seed", "trainer.seed", self.seed, words))
        if start:
            words.append(flag_word("--teacher", "model.start", start, words))
        config = load_config(kind, files, words)
        if not config.model.start:
            raise UserError(f"{files[-1]}: model.start names no checkpoint; {advice}")
        if self.scale_lr:
            rate = config.optimizer.lr * config.trainer.effective_batch
            config = replace(config, optimizer=replace(config.optimizer, lr=rate))
        check_early(config, self.gpus, self.resume)
        name = "_".join(part for part in (files[0].stem, self.name, self.postfix) if part)
        return config, self.logdir / self.project / name

    @contextmanager
    def held(self, run: Path) -> Iterator[None]:
        """Keeps other runs out of the folder while this one trains, and names it if the disk is full."""
        from egogen.locks import hold
        from ldm.training.launch import is_first, is_requeued

        guarded = is_first() and self.train
        # The job before a requeued one is about to end.
        with hold(run, "training", wait=is_requeued()) if guarded else nullcontext(), writing(run):
            yield
