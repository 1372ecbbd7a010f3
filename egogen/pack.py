"""Packs the frames of a split into tar files, for file systems that are slow with many small files.

Stage 2 trains from them by `data.frame_tars=DIR`, where DIR is what `--out` was; stage 1 takes
DIR/DATASET/SPLIT as the folder of frames (`--image_folder`, `--image-dir`).
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from egogen.annotations import Annotations
from egogen.cli import parser, run
from egogen.frames import pack
from egogen.layout import FOLDERS, Layout, data_root, tar_folder
from egogen.manifest import claim, file_hash

log = logging.getLogger(__name__)


def arguments() -> argparse.ArgumentParser:
    """The command's flags."""
    made = parser("python -m egogen.pack", __doc__)
    made.add_argument("--dataset", choices=list(FOLDERS), required=True)
    made.add_argument("--split", choices=["train", "val"], required=True)
    made.add_argument("--out", type=Path, required=True, help="folder of the tar files of all splits")
    made.add_argument("--data-root", type=Path, default=data_root(), help="the folder that holds EgoGen/")
    made.add_argument("--frames-per-tar", type=int, default=5000)
    return made


def main(argv: Sequence[str] | None = None) -> None:
    """Packs; finished tar files are kept."""
    args = arguments().parse_args(argv)
    layout = Layout(args.data_root, args.dataset)
    annotations = Annotations.read(layout.annotations(args.split))
    names = [name for item in annotations for name in (item.action.image_0, item.action.image_1)]
    names = list(dict.fromkeys(names))
    out = tar_folder(args.out, args.dataset, args.split)
    claim(out, {"annotations": file_hash(annotations.source), "frames_per_tar": args.frames_per_tar})
    paths = pack(layout.frames(args.split), names, out, args.frames_per_tar)
    log.info("%d frames in %d tar files: %s", len(names), len(paths), out)


if __name__ == "__main__":
    run(main)
