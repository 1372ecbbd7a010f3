"""Joins runs that drew different items of one split, such as a third for each seed, into one run.

The joined run is evaluated and reported like any other; its manifest keeps those of its parts.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from egogen.annotations import check_object
from egogen.cli import parser, run
from egogen.errors import UserError
from egogen.files import atomic_open, read_json
from egogen.manifest import NAME, claim, file_hash

log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> None:
    """Checks that the parts do not overlap, copies their frames."""
    made = parser("python -m ldm.report.pool", __doc__)
    made.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a folder that ldm.sample made")
    made.add_argument("--below", type=Path, default=Path(), help="where in each RUN the folder really is")
    made.add_argument("--out", type=Path, required=True, help="the joined run")
    args = made.parse_args(argv)
    parts = [folder / args.below for folder in args.runs]
    frames = collect(parts)
    claim(args.out, {"parts": [manifest(part) for part in parts]})
    for name, path in frames.items():
        target = args.out / "images" / name
        if not (target.exists() and file_hash(target) == file_hash(path)):
            with path.open("rb") as source, atomic_open(target) as file:
                shutil.copyfileobj(source, file)
    log.info("%s: %d frames of %d runs", args.out, len(frames), len(parts))


def collect(runs: Sequence[Path]) -> dict[Path, Path]:
    """The frames of all runs by their name below `images/`.

    Raises:
        UserError: a run has none, or a frame is in two runs.
    """
    found: dict[Path, Path] = {}
    for folder in runs:
        images = folder / "images"
        paths = sorted(path for path in images.rglob("*") if path.is_file())
        if not paths:
            raise UserError(f"{images}: no frames; draw them by python -m ldm.sample")
        for path in paths:
            name = path.relative_to(images)
            if name in found:
                raise UserError(f"{path}: is also {found[name]}; the parts must be of different items")
            found[name] = path
    return found


def manifest(folder: Path) -> dict[str, Any]:
    """What made a run.

    Raises:
        UserError: the folder does not say.
    """
    path = folder / NAME
    return dict(check_object(read_json(path), f"{path}", "settings by name"))


if __name__ == "__main__":
    run(main)
