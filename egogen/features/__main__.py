"""Features of stage 1 without the 500 GB: converts a tree to another store, compares stores, estimates sizes.

A store is a folder with <data set>/<split>/{llava_image,llava_text}: npy (published), compact (CLIP's patches
in place of image features, text rows in shards) or online (no image features at all).
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from egogen import cli
from egogen.errors import UserError, reason
from egogen.features.byte_sizes import FeatureShape, count, table
from egogen.features.compare import compare
from egogen.features.rows import ROW_TYPES
from egogen.features.store import STORES
from egogen.features.store_conversion import Wish, convert
from egogen.features.weight_files import SUFFIXES
from egogen.files import write_json
from egogen.layout import FOLDERS, Layout, Split, data_root
from egogen.record import run_record

log = logging.getLogger(__name__)


def arguments() -> argparse.ArgumentParser:
    """The three actions and their flags."""

    def action(**options: str) -> argparse.ArgumentParser:
        return cli.parser(options["prog"], options["description"])

    made = cli.parser("python -m egogen.features", __doc__)
    actions = made.add_subparsers(dest="action", required=True, parser_class=action)  # type: ignore[call-overload]
    for name, add_flags, text in (
        ("convert", add_convert, "turn a tree of features into another store"),
        ("check", add_check, "compare two stores, or read one through and name what is damaged"),
        ("estimate", add_estimate, "say what each store takes on disk"),
    ):
        add_flags(actions.add_parser(name, help=text, description=text))
    return made


def add_convert(made: argparse.ArgumentParser) -> None:
    """Flags of `convert`."""
    made.add_argument("source", type=Path, help="root of the features, or any folder below it")
    made.add_argument("target", type=Path, help="root of the new store")
    made.add_argument("--to", choices=STORES, default="compact", help="which store to make")
    made.add_argument(
        "--projector", type=Path,
        help=f"file ({SUFFIXES}) or checkpoint folder with stage 1's projector, to leave .npy",
    )  # fmt: skip
    made.add_argument("--clip", type=Path, help="for --to online: folder of the CLIP that stage 1 saw with")
    made.add_argument("--text-type", choices=ROW_TYPES, default=Wish.row_type, help="of text rows in shards")
    made.add_argument(
        "--features-per-shard",
        type=positive,
        default=Wish.features_per_shard,
        help="held in memory at a time",
    )
    made.add_argument(
        "--tolerance", type=float, default=Wish.tolerance,
        help="relative error of image features above which the projector is refused",
    )  # fmt: skip
    made.add_argument("--workers", type=positive, default=Wish.workers, help="threads")


def add_check(made: argparse.ArgumentParser) -> None:
    """Flags of `check`."""
    made.add_argument("store", type=Path, help="root of the features, or any folder below it")
    made.add_argument("other", type=Path, nargs="?", help="a store that stands for the first")
    made.add_argument("--items", type=positive, help="at most so many features of a folder, evenly spread")


def add_estimate(made: argparse.ArgumentParser) -> None:
    """Flags of `estimate`."""
    of = made.add_mutually_exclusive_group(required=True)
    of.add_argument("--items", type=positive, help="number of actions, each with a frame of its own")
    of.add_argument("--annotations", type=Path, nargs="+", help="annotation files to count in")
    of.add_argument("--dataset", choices=list(FOLDERS), help="count in both splits below --data-root")
    made.add_argument("--data-root", type=Path, default=data_root(), help="the folder that holds EgoGen/")
    made.add_argument("--width", type=positive, default=FeatureShape.width, help="of the language model")
    made.add_argument("--patch-width", type=positive, default=FeatureShape.patch_width, help="of CLIP")
    made.add_argument("--patches", type=positive, default=FeatureShape.patches, help="of an image")
    made.add_argument("--tokens", type=positive, default=FeatureShape.tokens, help="of a text, on average")


def positive(text: str) -> int:
    """Reads a number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"found {text}, expected at least 1")
    return int(text)


def main(argv: Sequence[str] | None = None) -> None:
    """Does what is asked."""
    args = arguments().parse_args(argv)
    if args.action == "convert":
        rows, shard = args.text_type, args.features_per_shard
        wish = Wish(args.to, args.projector, args.clip, rows, shard, args.tolerance, args.workers)
        run_convert(args.source, args.target, wish)
    elif args.action == "check":
        run_check(args.store, args.other, args.items)
    else:
        images = texts = args.items
        if args.items is None:
            layout = Layout(args.data_root, args.dataset) if args.dataset else None
            files = [layout.annotations(split) for split in get_args(Split)] if layout else args.annotations
            images, texts = count(files)
        shape = FeatureShape(args.width, args.patch_width, args.patches, args.tokens)
        sys.stdout.write(table(images, texts, shape))


def run_convert(source: Path, target: Path, wish: Wish) -> None:
    """Converts, and says how far each folder is from its source."""
    try:
        outcomes = convert(source, target, wish)
    except OSError as error:
        place = error.filename or target
        raise UserError(f"{place}: {reason(error)}; the same command goes on where it stopped") from None
    write_json(target / "record.json", run_record(["lego-egogen", "numpy", "safetensors"]))
    for made in outcomes:
        measured = "" if made.difference is None else f"; {made.difference}"
        log.info("%s: %d features%s", made.target, made.features, measured)


def run_check(store: Path, other: Path | None, items: int | None) -> None:
    """Prints a line for each folder.

    Raises:
        UserError: features or shards are missing or damaged; the lines before it name each.
    """
    problems = []
    for found in compare(store, other, items):
        measured = f"{found.read} features read; {found.difference}"
        sys.stdout.write(f"{found.folder}: {'computed online, none stored' if found.online else measured}\n")
        for problem in found.problems:
            sys.stdout.write(f"  {problem}\n")
        problems += found.problems
    if problems:
        raise UserError(f"{other or store}: {len(problems)} problems, the first: {problems[0]}")


if __name__ == "__main__":
    cli.run(main)
