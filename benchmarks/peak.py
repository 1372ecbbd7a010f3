"""What this machine can do at most: products of large matrices in 32 and 16 bits, and copying.

    python benchmarks/peak.py                # on a CPU: seconds
    python benchmarks/peak.py --device cuda

The other benchmarks' figures are shares of these: measured in the same minutes, by the same threads.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from measuring import OnDevice, SpeedTable, fastest, run

from egogen.cli import flag


@dataclass(frozen=True)
class Peak(OnDevice):
    """The flags."""

    side: int = flag("of the square matrices [2048, on a GPU 8192]", type=int, default=0)
    repeats: int = flag("timed runs, of which the fastest counts", type=int, default=5)


def measure(options: Peak, root: Path) -> dict[str, object]:  # noqa: ARG001 - makes no files
    """TFLOP/s of products and TB/s of a copy, each read and written byte counted."""
    table = SpeedTable()
    print(f"{options.machine}, torch {torch.__version__}")
    side, device = options.side or (8192 if options.on_gpu else 2048), options.device
    for name, dtype in (("product, 32 bits", torch.float32), ("product, 16 bits", torch.bfloat16)):
        one, other = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        seconds = fastest(lambda one=one, other=other: one @ other, options.repeats, device)
        table.add(what=name, tflop_per_second=2 * side**3 / seconds / 1e12, tb_per_second=None)
    values = torch.randn(64 * 2**20, device=device)  # 256 MiB, more than caches hold
    into = torch.empty_like(values)
    seconds = fastest(lambda: into.copy_(values), options.repeats, device)
    moved = 2 * values.nbytes / seconds / 1e12
    table.add(what="copy", tflop_per_second=None, tb_per_second=moved)
    return {"peak": table}


if __name__ == "__main__":
    run(measure, Peak, __doc__)
