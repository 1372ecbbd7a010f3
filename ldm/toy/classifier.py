"""Trains a small classifier of toy frames, whose features `toy_fid` and `toy_similarity` compare frames in.

It tells verb, acting hand, object and colour of the event from the target frame alone, minutes on a CPU. Its
features know nothing but the toy world: their distances are no FID and no CLIP similarity.
"""

from __future__ import annotations

from collections.abc import Sequence

from egogen import cli
from ldm.toy.builder_options import ClassifierOptions


def main(argv: Sequence[str] | None = None) -> None:
    """Reads target frames and metadata, trains, writes the file; a finished file is left alone."""
    options = cli.options(ClassifierOptions, argv, "python -m ldm.toy.classifier", __doc__)
    from ldm.toy.classifier_training import build_classifier
    from ldm.toy.fitting import build_once

    build_once(options, build_classifier)


if __name__ == "__main__":
    cli.run(main)
