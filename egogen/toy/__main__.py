"""Writes the toy world: before/after frames of hands at work, in the EgoGen layout of both data sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from egogen import cli
from egogen.cli import flag
from egogen.layout import data_root
from egogen.seeds import read_seed


@dataclass(frozen=True)
class ToyWorldOptions:
    """How large the world is, and where it goes."""

    out: Path = flag("the folder that will hold EgoGen/", type=Path, default=data_root)
    train: int = flag("pairs in each train split", type=int, default=2000)
    val: int = flag("pairs in each val split", type=int, default=200)
    size: int = flag("frame height in pixels", type=int, default=64)
    seed: int = flag("another seed makes another world", type=read_seed, default=0)
    workers: int | None = flag("processes; all cores if not given", type=cli.workers)


def main(argv: Sequence[str] | None = None) -> None:
    """Writes the world."""
    options = cli.options(ToyWorldOptions, argv, "python -m egogen.toy", __doc__)
    from egogen.toy.world import write_world

    write_world(**vars(options))


if __name__ == "__main__":
    cli.run(main)
