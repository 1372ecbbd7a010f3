"""Joins runs that drew different items of one split, such as a third for each seed, into one run.

The joined run is evaluated and reported like any other; its manifest keeps those of its parts.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from egogen import cli
from egogen.cli import flag
from egogen.errors import UserError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PoolOptions:
    """The parts, and the run that they become."""

    runs: list[Path] = flag(
        "a folder that ldm.sample made", positional=True, nargs="+", type=Path, metavar="RUN"
    )
    below: Path = flag("where in each RUN the folder really is", type=Path, default=Path())
    out: Path = flag("the joined run", type=Path, required=True)


def main(argv: Sequence[str] | None = None) -> None:
    """Checks that the parts do not overlap, copies their frames."""
    options = cli.options(PoolOptions, argv, "python -m ldm.report.pool", __doc__)
    from egogen.annotations import check_object
    from egogen.files import atomic_open, read_json
    from egogen.manifest import NAME, claim, file_hash

    parts = [folder / options.below for folder in options.runs]
    frames = collect(parts)
    manifests = [check_object(read_json(part / NAME), f"{part / NAME}", "settings by name") for part in parts]
    claim(options.out, {"parts": manifests})
    for name, path in frames.items():
        target = options.out / "images" / name
        if not (target.exists() and file_hash(target) == file_hash(path)):
            with path.open("rb") as source, atomic_open(target) as file:
                shutil.copyfileobj(source, file)
    log.info("%s: %d frames of %d runs", options.out, len(frames), len(parts))


def collect(runs: Sequence[Path]) -> dict[Path, Path]:
    """The frames of all runs by their name below `images/`.

    Raises:
        UserError: a run has none, or a frame is in two runs.
    """
    from egogen.walks import walk_files

    found: dict[Path, Path] = {}
    for folder in runs:
        images = folder / "images"
        paths = walk_files(images)
        if not paths:
            raise UserError(f"{images}: no frames; draw them by python -m ldm.sample")
        for path in paths:
            name = path.relative_to(images)
            if name in found:
                raise UserError(f"{path}: is also {found[name]}; the parts must be of different items")
            found[name] = path
    return found


if __name__ == "__main__":
    cli.run(main)
