"""Features of stage 1 without the 500 GB: converts a tree to another store, compares stores, estimates sizes.

A store is a folder with <data set>/<split>/{llava_image,llava_text}: npy (published), compact (CLIP's patches
in place of image features, text rows in shards) or online (no image features at all).
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from egogen import cli
from egogen.cli import flag
from egogen.errors import UserError, reason
from egogen.features.byte_sizes import FeatureShape, count, table
from egogen.features.compare import compare
from egogen.features.store_conversion import Conversion, convert, positive
from egogen.files import write_json
from egogen.layout import FOLDERS, Layout, Split, data_root
from egogen.record import run_record

log = logging.getLogger(__name__)
PROG = "python -m egogen.features"
ACTIONS = {
    "convert": "turn a tree of features into another store",
    "check": "compare two stores, or read one through and name what is damaged",
    "estimate": "say what each store takes on disk",
}


@dataclass(frozen=True)
class CheckOptions:
    """The flags of `check`."""

    store: Path = flag("root of the features, or any folder below it", positional=True, type=Path)
    other: Path | None = flag("a store that stands for the first", positional=True, type=Path, nargs="?")
    items: int | None = flag("at most so many features of a folder, evenly spread", type=positive)


@dataclass(frozen=True)
class EstimateOptions(FeatureShape):
    """The flags of `estimate`."""

    items: int | None = flag("number of actions, each with a frame of its own", type=positive, either=True)
    annotations: list[Path] | None = flag("annotation files to count in", type=Path, nargs="+", either=True)
    dataset: str | None = flag("count in both splits below --data-root", choices=list(FOLDERS), either=True)
    data_root: Path = flag("the folder that holds EgoGen/", type=Path, default=data_root)


def main(argv: Sequence[str] | None = None) -> None:
    """Does what is asked."""
    words = sys.argv[1:] if argv is None else list(argv)
    actions = cli.parser(PROG, __doc__)
    actions.add_argument("action", choices=ACTIONS, help="; ".join(map(": ".join, ACTIONS.items())))
    action: str = actions.parse_args(words[:1]).action
    given = words[1:], f"{PROG} {action}", ACTIONS[action]
    if action == "convert":
        run_convert(cli.options(Conversion, *given))
    elif action == "check":
        run_check(cli.options(CheckOptions, *given))
    else:
        run_estimate(cli.options(EstimateOptions, *given))


def run_convert(wish: Conversion) -> None:
    """Converts, and says how far each folder is from its source."""
    try:
        outcomes = convert(wish)
    except OSError as error:
        place = error.filename or wish.target
        raise UserError(f"{place}: {reason(error)}; the same command goes on where it stopped") from None
    write_json(wish.target / "record.json", run_record(["lego-egogen", "numpy", "safetensors"]))
    for made in outcomes:
        measured = "" if made.difference is None else f"; {made.difference}"
        log.info("%s: %d features%s", made.target, made.features, measured)


def run_check(options: CheckOptions) -> None:
    """Prints a line for each folder.

    Raises:
        UserError: features or shards are missing or damaged; the lines before it name each.
    """
    problems = []
    for found in compare(options.store, options.other, options.items):
        measured = f"{found.read} features read; {found.difference}"
        sys.stdout.write(f"{found.folder}: {'computed online, none stored' if found.online else measured}\n")
        for problem in found.problems:
            sys.stdout.write(f"  {problem}\n")
        problems += found.problems
    if problems:
        store = options.other or options.store
        raise UserError(f"{store}: {len(problems)} problems, the first: {problems[0]}")


def run_estimate(options: EstimateOptions) -> None:
    """Prints what each store takes."""
    files = options.annotations or []
    if options.dataset:
        layout = Layout(options.data_root, options.dataset)
        files = [layout.annotations(split) for split in get_args(Split)]
    images, texts = (options.items, options.items) if options.items else count(files)
    sys.stdout.write(table(images, texts, options))


if __name__ == "__main__":
    cli.run(main)
