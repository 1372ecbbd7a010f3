"""Writes stage 1's half of the toy start that ships: both LLaVAs in 16 bits, and their CLIP once.

`llava` is the start, `vllm` the tuned one. Their folders stay as the published ones are, with
safetensors; CLIP, which tuning leaves as it is, lies beside them where `mm_vision_tower` says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from egogen import cli
from egogen.cli import flag


@dataclass(frozen=True)
class ShipLlavaOptions:
    """Which LLaVAs."""

    start: Path = flag("the folder of python -m llava.toy", type=Path, required=True)
    tuned: Path = flag("the folder that llava.train made of it", type=Path, required=True)
    out: Path = flag("folder to write into", type=Path, default=Path("assets/toy"))


def main(argv: Sequence[str] | None = None) -> None:
    """Reads the folders and writes them compactly."""
    options = cli.options(ShipLlavaOptions, argv, "python -m llava.toy.ship", __doc__)
    from llava.toy.shipping import ship

    ship(options)


if __name__ == "__main__":
    cli.run(main)
