"""Draws action frames: a photo and an instruction in, the frame out; or many photos, in one folder.

Without stage 1 the instruction itself guides the drawing, as in InstructPix2Pix. With --vllm the fine-tuned
VLLM first turns it into a description and features (as a separate process, in stage 1's environment);
features that are there already are given by --image-feature and --text-feature. Several photos, folders or a
table of photos and actions are drawn in batches, each as it would be alone; a second run goes on.
"""

from __future__ import annotations

from collections.abc import Sequence

from egogen import cli
from ldm.sampling.edit_options import PhotoListOptions


def main(argv: Sequence[str] | None = None) -> None:
    """Parses, describes if asked to, draws, writes."""
    options = cli.options(PhotoListOptions, argv, "python -m ldm.edit", __doc__)
    if options.is_one:
        one = options.one()
        from ldm.sampling.editing import edit

        edit(one)
    else:
        from ldm.sampling.many_photos import edit_all

        edit_all(options)


if __name__ == "__main__":
    cli.run(main)
