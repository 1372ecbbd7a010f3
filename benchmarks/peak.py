"""What this machine can do at most: products of large matrices in 32 and 16 bits, and copying.

    python benchmarks/peak.py                # on a CPU: seconds
    python benchmarks/peak.py --device cuda

The other benchmarks measure the same once more: their figures are shares of what their own run could do.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from measuring import OnDevice, SpeedTable, measured_peak, run

from egogen.cli import flag


@dataclass(frozen=True)
class Peak(OnDevice):
    """The flags."""

    repeats: int = flag("timed runs, of which the fastest counts", type=int, default=5)


def measure(options: Peak, root: Path) -> dict[str, object]:  # noqa: ARG001 - makes no files
    """TFLOP/s of products and TB/s of a copy."""
    table = SpeedTable()
    print(f"{options.machine}, torch {torch.__version__}")
    peak = measured_peak(options.device, options.repeats)
    table.add(what="product, 32 bits", tflop_per_second=peak["float32"], tb_per_second=None)
    table.add(what="product, 16 bits", tflop_per_second=peak["bf16"], tb_per_second=None)
    table.add(what="copy", tflop_per_second=None, tb_per_second=peak["memory"])
    return {"peak": table}


if __name__ == "__main__":
    run(measure, Peak, __doc__)
