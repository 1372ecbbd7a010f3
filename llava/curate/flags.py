"""The flags of `python -m llava.curate`, and what is wrong with them together."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import get_args
from urllib.parse import urlsplit

from egogen import cli
from egogen.layout import FOLDERS, Split, data_root, run_root

OPENAI = "https://api.openai.com/v1"
# Flags that mean nothing to a model on this machine.
OF_ENDPOINTS = ("images", "requests_per_minute", "tokens_per_minute", "price_in", "price_out", "max_cost")


def arguments(argv: Sequence[str] | None, description: str | None) -> argparse.Namespace:
    """Reads the command line.

    Raises:
        SystemExit: a flag is unknown or out of bounds, or two do not belong together; with code 2.
    """
    parser = cli.parser("python -m llava.curate", description)
    add_input(parser)
    add_model(parser)
    add_limits(parser)
    args = parser.parse_args(argv)
    if args.local is not None:
        for name in OF_ENDPOINTS:
            if getattr(args, name) not in (None, False):
                parser.error(f"--{name.replace('_', '-')}: is for endpoints; leave it out with --local")
    if (args.price_in is None) != (args.price_out is None):
        parser.error("--price-in and --price-out: give both or neither")
    if args.max_cost is not None and args.price_in is None:
        parser.error("--max-cost: needs --price-in and --price-out, to know what a request costs")
    if args.split == "val" and args.out is None:
        parser.error("--split val: EgoGen has no place for its conversations; add --out FILE.json")
    return args


def add_input(parser: argparse.ArgumentParser) -> None:
    """What is described and where it goes."""
    add = parser.add_argument
    add("--dataset", choices=list(FOLDERS), required=True, help="whose actions are described")
    add("--split", choices=get_args(Split), default="train", help="which of them")
    add("--data-root", type=Path, default=data_root(), help="the folder that holds EgoGen/")
    add(
        "--out", type=Path, default=None,
        help="conversations to write [EgoGen/curation_from_gpt/DATASET_for_tuning_forecasting.json]",
    )  # fmt: skip
    add("--limit", type=number(int, 1), default=None, help="the first N actions alone")
    add("--shard", default=None, metavar="I/N", help="the I-th of N parts; a run without it joins them")
    add("--cache", type=Path, default=run_root() / "curation", help="folder of all answers ever paid for")
    add("--dry-run", action="store_true", help="tell the numbers of requests and tokens and the cost; stop")
    add("--sheet", type=Path, default=None, metavar="FILE.html", help="page to read a sample by")
    add("--sheet-size", type=number(int, 1), default=48, help="actions on the page")


def add_model(parser: argparse.ArgumentParser) -> None:
    """Who is asked, and what."""
    add = parser.add_argument
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--model", help="name of a model behind an OpenAI-compatible endpoint")
    which.add_argument("--local", type=Path, metavar="FOLDER", help="a causal language model of transformers")
    add(
        "--base-url", type=base_url, default=os.environ.get("OPENAI_BASE_URL") or OPENAI,
        help="the endpoint, or OPENAI_BASE_URL; its key comes from OPENAI_API_KEY alone",
    )  # fmt: skip
    add("--prompt", type=Path, default=None, metavar="FILE.yaml", help="another prompt than ours")
    add("--images", action="store_true", help="show the model the frame before the action, too")
    add("--temperature", type=number(float, 0), default=0.7, help="of the answers")
    add("--max-tokens", type=number(int, 1), default=200, help="longest answer")
    add("--ask-again", type=number(int, 0), default=2, help="times that an answer with faults is asked anew")


def add_limits(parser: argparse.ArgumentParser) -> None:
    """How fast, how patiently and at what cost."""
    add = parser.add_argument
    add("--concurrency", type=number(int, 1), default=8, help="requests to an endpoint at a time")
    add("--batch-size", type=number(int, 1), default=8, help="chats that a local model answers at a time")
    add("--requests-per-minute", type=number(float, 0, above=True), default=None, help="at most")
    add("--tokens-per-minute", type=number(int, 1), default=None, help="at most, read and written together")
    add("--timeout", type=number(float, 0, above=True), default=60.0, help="seconds to wait for an answer")
    add("--retries", type=number(int, 0), default=6, help="times that a failed request is sent again")
    add("--price-in", type=number(float, 0), default=None, help="of a million tokens that are read")
    add("--price-out", type=number(float, 0), default=None, help="of a million tokens that are written")
    add("--max-cost", type=number(float, 0), default=None, help="stop before all answers cost more than this")


def number(kind: type[int] | type[float], low: int, *, above: bool = False) -> Callable[[str], int | float]:
    """A reader of numbers that are at least `low`, or above it."""

    def read(text: str) -> int | float:
        value: int | float
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and (value > low if above else value >= low)):
            what = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(
                f"found {text!r}, expected {what} {'above' if above else 'of at least'} {low}"
            )
        return value

    return read


def base_url(text: str) -> str:
    """Checks an endpoint's address."""
    try:
        parts = urlsplit(text)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or True)
    except ValueError:
        good = False
    if not good:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected such as http://localhost:8000/v1")
    if parts.username or parts.password or parts.query:
        raise argparse.ArgumentTypeError(
            "holds a user name, a password or a query; a key goes into OPENAI_API_KEY, not into the address"
        )
    return text
