"""Checks an EgoGen data set: texts against files, sizes, order, metric targets, features, duplicates, leaks.

Exit code 0: no fault; 1: faults were found; 2: there is nothing that can be checked.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from egogen.cli import parser, run
from egogen.errors import UserError
from egogen.files import write_json
from egogen.layout import FOLDERS
from egogen.validate.check_report import EXIT_FAULTS
from egogen.validate.whole import ValidateOptions, validate


def arguments() -> argparse.ArgumentParser:
    """The command's flags."""
    made = parser("python -m egogen.validate", __doc__)
    made.add_argument("root", type=Path, metavar="ROOT", help="the folder that holds EgoGen/")
    made.add_argument("--dataset", choices=list(FOLDERS), help="one data set; else those that are there")
    made.add_argument("--features", type=Path, metavar="DIR", help="check the stage-1 features in there too")
    made.add_argument("--width", type=int, help="d of the features; else that of the first one")
    made.add_argument("--height", type=int, help="of all frames, in pixels; else the most frequent one")
    made.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="threads")
    made.add_argument("--json", type=Path, metavar="FILE", help="write the result there too")
    made.add_argument(
        "--fix",
        action="store_true",
        help="first make val_gt_for_metric equal to the val targets and delete unfinished .part files; "
        "frames, annotations and features are never changed",
    )
    return made


def main(argv: Sequence[str] | None = None) -> None:
    """Checks, prints a table, ends with code 1 if there are faults."""
    args = arguments().parse_args(argv)
    for name in ("workers", "width", "height"):
        if (value := getattr(args, name)) is not None and value < 1:
            raise UserError(f"--{name} {value}: expected 1 or more")
    if args.features and not args.features.is_dir():
        raise UserError(f"{args.features}: no such folder of features")
    options = ValidateOptions(args.features, args.width, args.height, args.workers, args.fix)
    report = validate(args.root, args.dataset, options)
    repaired = report.repaired or (["nothing, there was nothing to do"] if args.fix else [])
    sys.stdout.write("".join(f"repaired: {line}\n" for line in repaired) + report.text())
    if args.json:
        write_json(args.json, report.json())
    if report.faults:
        raise SystemExit(EXIT_FAULTS)


if __name__ == "__main__":
    run(main)
