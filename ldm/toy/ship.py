"""Writes stage 2's half of the toy start that ships: editor and LEGO in 16 bits, what they share once.

Autoencoder and text encoder are frozen in every training after the first, so they lie in one file; of the
49,408 rows of CLIP's vocabulary, those that the toy world's texts use are kept. All that reads checkpoints
(`main.py`, `ldm.sample`, `ldm.edit`, the pipeline) reads these files as any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from egogen import cli
from egogen.cli import flag


@dataclass(frozen=True)
class ShipOptions:
    """Which networks, and the world whose words they know."""

    data_root: Path = flag("folder that holds the toy world's EgoGen/", type=Path, required=True)
    editor: Path = flag("the file of python -m ldm.toy.editor", type=Path, required=True)
    lego: list[Path] = flag("LEGOs that were trained from it", type=Path, nargs="+", required=True)
    names: list[str] = flag("what to call the LEGOs, in order", nargs="+", required=True)
    described: list[Path] = flag("annotations whose texts count too", type=Path, nargs="*", default=[])
    out: Path = flag("folder to write into", type=Path, default=Path("assets/toy"))


def main(argv: Sequence[str] | None = None) -> None:
    """Reads the networks and writes them compactly."""
    options = cli.options(ShipOptions, argv, "python -m ldm.toy.ship", __doc__)
    from ldm.toy.shipping import ship

    ship(options)


if __name__ == "__main__":
    cli.run(main)
