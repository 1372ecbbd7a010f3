"""Writes the toy world: before/after frames of hands at work, in the EgoGen layout of both data sets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from egogen.cli import parser, run
from egogen.layout import data_root
from egogen.toy.world import write_world


def main(argv: Sequence[str] | None = None) -> None:
    """Reads the arguments and writes the world."""
    arguments = parser("python -m egogen.toy", __doc__)
    arguments.add_argument("--out", type=Path, default=data_root(), help="the folder that will hold EgoGen/")
    arguments.add_argument("--train", type=int, default=2000, help="pairs in each train split")
    arguments.add_argument("--val", type=int, default=200, help="pairs in each val split")
    arguments.add_argument("--size", type=int, default=64, help="frame height in pixels")
    arguments.add_argument("--seed", type=int, default=0, help="another seed makes another world")
    arguments.add_argument("--workers", type=int, default=None, help="processes; all cores if not given")
    args = arguments.parse_args(argv)
    write_world(args.out, args.train, args.val, args.size, args.seed, args.workers)


if __name__ == "__main__":
    run(main)
