"""What networks give back on a CPU stays with the process."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import pytest
import torch

from ldm.networks.kept_memory import keep_memory
from tests.forked import Forked

PAGES = 15_360  # of 60 MiB


def count_new_pages(device: str) -> None:
    """Writes for how many pages the system was asked by a tensor after others of its size."""
    keep_memory(torch.device(device))
    found = []
    for _ in range(20):
        torch.ones(PAGES * 1024)
        found.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
    sys.stdout.write(f"{found[-1] - found[-2]}")


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
def test_a_large_tensor_takes_the_place_of_the_last(tmp_path: Path) -> None:
    """Witness: a process for whose device nothing is asked."""
    counts = []
    for device in ("meta", "cpu"):
        process = Forked(count_new_pages, device, log=tmp_path / device)
        assert process.wait() == 0, process.printed
        counts.append(int(process.printed))
    assert counts[0] >= PAGES
    assert counts[1] < PAGES / 10
