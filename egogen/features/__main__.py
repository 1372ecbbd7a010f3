"""Features of stage 1 without the 500 GB: converts a tree to another store, compares stores, estimates sizes.

A store is a folder with <data set>/<split>/{llava_image,llava_text}: npy (published), compact (CLIP's patches
in place of image features, text rows in shards) or online (no image features at all).
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from typing import get_args

from egogen import cli
from egogen.errors import UserError, reason
from egogen.features.feature_options import CheckOptions, Conversion, EstimateOptions
from egogen.layout import Layout, Split

log = logging.getLogger(__name__)
PROG = "python -m egogen.features"
ACTIONS = {
    "convert": "turn a tree of features into another store",
    "check": "compare two stores, or read one through and name what is damaged",
    "estimate": "say what each store takes on disk",
}


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
    from egogen.features.store_conversion import convert
    from egogen.files import write_json
    from egogen.record import run_record

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
    from egogen.features.compare import compare

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
    from egogen.features.byte_sizes import count, table

    files = options.annotations or []
    if options.dataset:
        layout = Layout(options.data_root, options.dataset)
        files = [layout.annotations(split) for split in get_args(Split)]
    images, texts = (options.items, options.items) if options.items else count(files)
    sys.stdout.write(table(images, texts, options))


if __name__ == "__main__":
    cli.run(main)
