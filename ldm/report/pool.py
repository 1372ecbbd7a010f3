"""Joins runs that drew different items of one split, such as a third for each seed, into one run.

The joined run is evaluated and reported like any other; its manifest keeps those of its parts.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from egogen import cli
from egogen.cli import flag
from egogen.errors import UserError

if TYPE_CHECKING:  # --help takes no frames
    from egogen.packed_frames import FrameFile

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
    from egogen.manifest import NAME, claim

    parts = [folder / options.below for folder in options.runs]
    frames = collect(parts)
    manifests = [check_object(read_json(part / NAME), f"{part / NAME}", "settings by name") for part in parts]
    claim(options.out, {"parts": manifests})
    for name, frame in frames.items():
        target, content = options.out / "images" / name, frame.read_bytes()
        if not (target.exists() and target.read_bytes() == content):
            with atomic_open(target) as file:
                file.write(content)
    log.info("%s: %d frames of %d runs", options.out, len(frames), len(parts))


def collect(runs: Sequence[Path]) -> dict[str, FrameFile]:
    """The frames of all runs by clip/action/frame.

    Raises:
        UserError: a run has none, or a frame is in two runs.
    """
    from egogen.packed_frames import DrawnFrames

    found: dict[str, FrameFile] = {}
    for folder in runs:
        drawn = DrawnFrames(folder / "images")
        names = sorted(drawn.names)
        if not names:
            raise UserError(f"{drawn.folder}: no frames; draw them by python -m ldm.sample")
        for name in names:
            frame = drawn.file(name)
            if name in found:
                raise UserError(f"{frame}: is also {found[name]}; the parts must be of different items")
            found[name] = frame
    return found


if __name__ == "__main__":
    cli.run(main)
