"""Builds a toy "InstructPix2Pix": tunes the toy Stable Diffusion to change a frame as a text says.

All systems of the toy benchmark start from this training, so that each can do with a short one of its own.
It sees the pairs of the train split with their curated descriptions and, one time in five, their labels: what
a VLLM says, and its features, are left for the systems to learn.
"""

from __future__ import annotations

from collections.abc import Sequence

from egogen import cli
from ldm.toy.builder_options import EditorOptions


def main(argv: Sequence[str] | None = None) -> None:
    """Trains and writes the file; a finished file is left alone, a stopped training goes on."""
    options = cli.options(EditorOptions, argv, "python -m ldm.toy.editor", __doc__)
    from ldm.toy.editor_training import build_editor
    from ldm.toy.fitting import build_once

    build_once(options, build_editor)


if __name__ == "__main__":
    cli.run(main)
