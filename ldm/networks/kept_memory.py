"""What large tensors took on a CPU stays with the process, for those of the next layer."""

from __future__ import annotations

import ctypes
import sys

import torch

# Of glibc's <malloc.h>. Until it finds room for the largest block again it may take that several times, so
# larger ones, such as those of a checkpoint, still go back to the system.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEPT = {M_MMAP_THRESHOLD: 64 << 20, M_TRIM_THRESHOLD: (2 << 30) - 1}  # bytes: of a block, of what is free


def keep_memory(device: torch.device) -> None:
    """Has a process whose networks run on the CPU keep memory that they give back, up to 2 GiB.

    glibc returns blocks of some megabytes to the system at once, and the next layer pays for each page anew:
    up to a tenth of the time of a frame of true size (docs/performance.md). Where there is no glibc, or
    another allocator in its place, nothing changes. No result does.

    Args:
        device: where the networks run.
    """
    if device.type != "cpu" or sys.platform != "linux":
        return
    if set_option := getattr(ctypes.CDLL(None), "mallopt", None):  # musl has none
        for option, size in KEPT.items():
            set_option(option, size)
