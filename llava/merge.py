"""Joins the shards of `llava.describe` and writes the descriptions into a copy of the annotation file."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from egogen import cli
from egogen.cli import flag
from egogen.layout import DESCRIPTION_KEY

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MergeOptions:
    """The command line."""

    save_path: Path = flag("folder that llava.describe wrote", type=Path, required=True)
    edits: Path = flag("annotation file that was described", type=Path, required=True)
    out: Path = flag(f"annotation file to write, with {DESCRIPTION_KEY}", type=Path, required=True)


def main(argv: Sequence[str] | None = None) -> None:
    """Merges a folder of shards into a copy of an annotation file."""
    options = cli.options(MergeOptions, argv, "python -m llava.merge", __doc__)
    from egogen.annotations import Annotations
    from egogen.locks import hold
    from llava.describing.merging import join, merge, shard_files

    edits = Annotations.read(options.edits)
    with hold(options.out, "merging"):
        described = join(shard_files(options.save_path))
        edits.write(options.out, merge(edits, described, options.save_path))
    log.info("%s: %d descriptions", options.out, len(edits))


if __name__ == "__main__":
    cli.run(main)
