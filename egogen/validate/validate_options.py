"""The flags of `python -m egogen.validate`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from egogen import cli
from egogen.cli import flag
from egogen.errors import UserError
from egogen.layout import FOLDERS, check_outside


@dataclass(frozen=True)
class ValidateOptions:
    """What to check and how.

    Raises:
        UserError: a number is below 1, or there is no such folder of features.
    """

    root: Path = flag("the folder that holds EgoGen/", positional=True, type=Path, metavar="ROOT")
    dataset: str | None = flag("one data set; else those that are there", choices=list(FOLDERS))
    features: Path | None = flag("check the stage-1 features in there too", type=Path, metavar="DIR")
    width: int | None = flag("d of the features; else that of the first one", type=int)
    height: int | None = flag("of all frames, in pixels; else the most frequent one", type=int)
    workers: int = flag("threads", type=cli.workers, default=lambda: os.cpu_count() or 1)
    json: Path | None = flag("write the result there too", type=cli.report_file(".json"), metavar="FILE.json")
    fix: bool = flag(
        "first make val_gt_for_metric equal to the val targets and delete unfinished .part files; "
        "frames, annotations and features are never changed",
        action="store_true",
    )

    def __post_init__(self) -> None:
        for name in ("width", "height"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise UserError(f"--{name} {value}: expected 1 or more")
        if self.json:
            check_outside("--json", self.json, self.root)
        if self.features and not self.features.is_dir():
            raise UserError(f"{self.features}: no such folder of features")
