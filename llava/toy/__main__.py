"""Builds a toy LLaVA in the published format: tokenizer, CLIP, LLaMA, each trained briefly on the toy world.

It knows what is where in a frame and nothing about actions: fine-tuning has all of LEGO's question to learn.
"""

from __future__ import annotations

from collections.abc import Sequence

from egogen import cli
from llava.toy.toy_options import ToyLlavaOptions


def main(argv: Sequence[str] | None = None) -> None:
    """Builds the toy LLaVA, unless it is there."""
    options = cli.options(ToyLlavaOptions, argv, "python -m llava.toy", __doc__)
    from llava.toy.building import build_once

    build_once(options)


if __name__ == "__main__":
    cli.run(main)
