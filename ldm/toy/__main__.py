"""Builds a toy "Stable Diffusion" from the toy world, in minutes on a CPU, as a published single file.

An autoencoder whose decoder is trained on the frames; a text encoder that learns its words; a 4-channel UNet,
trained for a short while to draw objects from captions and target frames from their descriptions. `main.py`
starts from it as from Stable Diffusion 1.5.
"""

from __future__ import annotations

from collections.abc import Sequence

from egogen import cli
from ldm.toy.builder_options import StartOptions


def main(argv: Sequence[str] | None = None) -> None:
    """Reads the frames, trains the networks, writes the file; a finished file is left alone."""
    options = cli.options(StartOptions, argv, "python -m ldm.toy", __doc__)
    from ldm.toy.fitting import build_once
    from ldm.toy.start_training import build_start

    build_once(options, build_start)


if __name__ == "__main__":
    cli.run(main)
