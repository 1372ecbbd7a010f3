"""Stays loaded and describes one photo after another: lines of JSON in, lines of JSON out.

The web page runs it in stage 1's environment. `llava.describing.serving` says what the lines hold; where
stdin ends, it ends.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from egogen import cli
from egogen.cli import flag


@dataclass(frozen=True)
class ServeOptions:
    """Which model, and where it runs."""

    model_path: Path = flag("checkpoint folder, published or Hugging Face format", type=Path, required=True)
    device: str = flag("auto, cpu, cuda or cuda:N", default="auto")
    dtype: str | None = flag(
        "of weights and features [float16 on a GPU, float32 on the CPU]",
        choices=["float16", "bfloat16", "float32"],
    )
    max_new_tokens: int = flag("longest answer", type=int, default=1024)


def main(argv: Sequence[str] | None = None) -> None:
    """Loads, says that it is ready, and answers."""
    options = cli.options(ServeOptions, argv, "python -m llava.serve", __doc__)
    # What libraries print goes to stderr: stdout is for answers alone.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    import torch

    from llava.describing.decode import Sampling
    from llava.describing.serving import serve
    from llava.model import load, pick_device

    device = pick_device(options.device)
    dtype = options.dtype or ("float32" if device.type == "cpu" else "float16")
    loaded = load(options.model_path, device=device, dtype=getattr(torch, dtype))
    serve(loaded, sys.stdin, answers, Sampling(max_new_tokens=options.max_new_tokens))


if __name__ == "__main__":
    cli.run(main)
