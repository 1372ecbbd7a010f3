"""Draws one action frame: a photo and an instruction in, the frame out.

Without stage 1 the instruction itself guides the drawing, as in InstructPix2Pix. With --vllm the fine-tuned
VLLM first turns it into a description and features (as a separate process, in stage 1's environment);
features that are there already are given by --image-feature and --text-feature.
"""

from __future__ import annotations

from collections.abc import Sequence

from egogen import cli
from ldm.sampling.edit_options import EditOptions


def main(argv: Sequence[str] | None = None) -> None:
    """Parses, describes if asked to, draws, writes."""
    options = cli.options(EditOptions, argv, "python -m ldm.edit", __doc__)
    from ldm.sampling.editing import edit

    edit(options)


if __name__ == "__main__":
    cli.run(main)
