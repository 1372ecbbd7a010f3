"""Packs the frames of a split into tar files, for file systems that are slow with many small files.

Stage 2 trains from them by `data.frame_tars=DIR`, where DIR is what `--out` was; stage 1 takes
DIR/DATASET/SPLIT as the folder of frames (`--image_folder`, `--image-dir`).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from egogen import cli
from egogen.cli import flag
from egogen.errors import UserError
from egogen.layout import FOLDERS, Layout, Split, check_outside, data_root, tar_folder

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PackOptions:
    """The command's flags."""

    dataset: str = flag("whose frames", choices=list(FOLDERS), required=True)
    split: Split = flag("train or val", choices=get_args(Split), required=True)
    out: Path = flag("folder of the tar files of all splits", type=Path, required=True)
    data_root: Path = flag("the folder that holds EgoGen/", type=Path, default=data_root)
    frames_per_tar: int = flag("the last one may hold fewer", type=int, default=5000)

    def __post_init__(self) -> None:
        if self.frames_per_tar < 1:
            raise UserError(f"--frames-per-tar {self.frames_per_tar}: expected 1 or more")
        check_outside("--out", self.out, self.data_root)


def main(argv: Sequence[str] | None = None) -> None:
    """Packs; finished tar files are kept."""
    options = cli.options(PackOptions, argv, "python -m egogen.pack", __doc__)
    from egogen.annotations import Annotations
    from egogen.frames import pack
    from egogen.manifest import claim, file_hash

    layout = Layout(options.data_root, options.dataset)
    annotations = Annotations.read(layout.annotations(options.split))
    names = [name for item in annotations for name in (item.action.image_0, item.action.image_1)]
    names = list(dict.fromkeys(names))
    out = tar_folder(options.out, options.dataset, options.split)
    claim(out, {"annotations": file_hash(annotations.source), "frames_per_tar": options.frames_per_tar})
    paths = pack(layout.frames(options.split), names, out, options.frames_per_tar)
    log.info("%d frames in %d tar files: %s", len(names), len(paths), out)


if __name__ == "__main__":
    cli.run(main)
