"""The flags of `python -m llava.curate`, and what is wrong with them together."""

from __future__ import annotations

import math
import os
from argparse import ArgumentTypeError
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import get_args
from urllib.parse import urlsplit

from egogen import cli
from egogen.cli import flag
from egogen.layout import FOLDERS, Split, data_root, run_root
from llava.curate.budget import Prices
from llava.curate.exchange import ChatSampling

OPENAI = "https://api.openai.com/v1"
# Flags that mean nothing to a model on this machine.
OF_ENDPOINTS = ("images", "requests_per_minute", "tokens_per_minute", "price_in", "price_out", "max_cost")


def number(kind: type[int] | type[float], low: int, *, above: bool = False) -> Callable[[str], int | float]:
    """A reader of numbers that are at least `low`, or above it."""

    def read(text: str) -> int | float:
        with suppress(ValueError):
            value = kind(text)
            if math.isfinite(value) and (value > low if above else value >= low):
                return value
        allowed = f"a {'whole ' if kind is int else ''}number {'above' if above else 'of at least'} {low}"
        raise ArgumentTypeError(f"found {text!r}, expected {allowed}")

    return read


def base_url(text: str) -> str:
    """Checks an endpoint's address."""
    try:
        parts = urlsplit(text)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or True)
    except ValueError:
        good = False
    if not good:
        raise ArgumentTypeError(f"found {text!r}, expected such as http://localhost:8000/v1")
    if parts.username or parts.password or parts.query:
        raise ArgumentTypeError(
            "holds a user name, a password or a query; a key goes into OPENAI_API_KEY, not into the address"
        )
    return text


@dataclass(frozen=True)
class CurationOptions:
    """What is described and where it goes; who is asked, and what; how fast and at what cost."""

    dataset: str = flag("whose actions are described", choices=list(FOLDERS), required=True)
    split: Split = flag("which of them", choices=get_args(Split), default="train")
    data_root: Path = flag("the folder that holds EgoGen/", type=Path, default=data_root)
    out: Path | None = flag(
        "conversations to write [EgoGen/curation_from_gpt/DATASET_for_tuning_forecasting.json]", type=Path
    )
    limit: int | None = flag("the first N actions alone", type=number(int, 1))
    shard: str | None = flag("the I-th of N parts; a run without it joins them", metavar="I/N")
    cache: Path = flag(
        "folder of all answers ever paid for", type=Path, default=lambda: run_root() / "curation"
    )
    dry_run: bool = flag("tell the numbers of requests and tokens and the cost; stop", action="store_true")
    sheet: Path | None = flag("page to read a sample by", type=cli.report_file(".html"), metavar="FILE.html")
    sheet_size: int = flag("actions on the page", type=number(int, 1), default=48)
    model: str | None = flag("name of a model behind an OpenAI-compatible endpoint", either=True)
    local: Path | None = flag(
        "a causal language model of transformers", type=Path, metavar="FOLDER", either=True
    )
    base_url: str = flag(
        "the endpoint, or OPENAI_BASE_URL; its key comes from OPENAI_API_KEY alone", type=base_url,
        default=lambda: os.environ.get("OPENAI_BASE_URL") or OPENAI,
    )  # fmt: skip
    prompt: Path | None = flag("another prompt than ours", type=Path, metavar="FILE.yaml")
    images: bool = flag("show the model the frame before the action, too", action="store_true")
    temperature: float = flag("of the answers", type=number(float, 0), default=0.7)
    max_tokens: int = flag("longest answer", type=number(int, 1), default=200)
    ask_again: int = flag("times that an answer with faults is asked anew", type=number(int, 0), default=2)
    concurrency: int = flag("requests to an endpoint at a time", type=number(int, 1), default=8)
    batch_size: int = flag("chats that a local model answers at a time", type=number(int, 1), default=8)
    requests_per_minute: float | None = flag("at most", type=number(float, 0, above=True))
    tokens_per_minute: int | None = flag("at most, read and written together", type=number(int, 1))
    timeout: float = flag("seconds to wait for an answer", type=number(float, 0, above=True), default=60.0)
    retries: int = flag("times that a failed request is sent again", type=number(int, 0), default=6)
    price_in: float | None = flag("of a million tokens that are read", type=number(float, 0))
    price_out: float | None = flag("of a million tokens that are written", type=number(float, 0))
    max_cost: float | None = flag("stop before all answers cost more than this", type=number(float, 0))

    @property
    def sampling(self) -> ChatSampling:
        """How answers are drawn."""
        return ChatSampling(self.temperature, self.max_tokens)

    @property
    def prices(self) -> Prices:
        """Of tokens; 0 where they are not given."""
        return Prices(self.price_in or 0.0, self.price_out or 0.0)

    def __post_init__(self) -> None:
        unused = [name for name in OF_ENDPOINTS if getattr(self, name) not in (None, False)]
        if self.local is not None and unused:
            raise ArgumentTypeError(
                f"--{unused[0].replace('_', '-')}: is for endpoints; leave it out with --local"
            )
        if (self.price_in is None) != (self.price_out is None):
            raise ArgumentTypeError("--price-in and --price-out: give both or neither")
        if self.max_cost is not None and self.price_in is None:
            raise ArgumentTypeError(
                "--max-cost: needs --price-in and --price-out, to know what a request costs"
            )
        if self.split == "val" and self.out is None:
            raise ArgumentTypeError(
                "--split val: EgoGen has no place for its conversations; add --out FILE.json"
            )
