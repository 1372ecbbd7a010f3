"""What each step needs: bytes of disk, bytes of a GPU's memory, hours. docs/reproduce.md has the sources."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from egogen.disk import free_bytes, readable
from egogen.features.feature_options import FeatureShape
from egogen.table import text_table

GB = 10**9
WEIGHTS_13B = 13_324_292_096 * 2  # bytes: language model, projector and CLIP, in 16 bits
SHAPE = FeatureShape()
FEATURES = (SHAPE.patches + SHAPE.tokens) * SHAPE.width * 2  # bytes of a pair in the published form
FRAME = 20_000  # bytes of a frame 256 pixels high
LINE = (1e7, 1e8)  # bytes a second of a network: slow, fast
CPU = 0.16e12  # operations a second of two cores in 32 bits, from what drawing a frame there took


@dataclass(frozen=True)
class Pace:
    """How long one item takes.

    Args:
        gpu: seconds on one, at best and at worst.
        cpu: seconds on two cores.
        memory: bytes of a GPU.
    """

    gpu: tuple[float, float]
    cpu: float
    memory: int

    def hours(self, items: int, gpus: int) -> tuple[float, float]:
        """At best and at worst; on the CPU's cores where there is no GPU."""
        if gpus:
            low, high = self.gpu
            return items * low / gpus / 3600, items * high / gpus / 3600
        seconds = items * self.cpu * 2 / (os.cpu_count() or 2)
        return seconds / 3600, seconds / 3600


TOKENS = 256 + 80 + 100  # of an image, a question, an answer
DESCRIBE = Pace((0.1, 4.0), 2 * 13e9 * TOKENS / CPU, WEIGHTS_13B + 2 * GB)
DRAW = Pace((0.5, 8.4), 384.0, 8 * GB)
MEASURE = Pace((0.02, 0.12), 7.8, 6 * GB)
TUNE = Pace((8 / 9.2, 4 * 8 / 9.2), 8 * 13e9 * 500 / CPU, 40 * GB)  # a record of stage 1
TRAIN = Pace((8 / 1100, 8 / 111), 1.2e12 / CPU, 40 * GB)  # a pair of stage 2


@dataclass(frozen=True)
class Need:
    """Of a step: where it writes, how much, and how long it takes."""

    root: Path
    disk: int
    hours: tuple[float, float] = (0.0, 0.0)
    memory: int = 0


def fetching(root: Path, size: int, room: int) -> Need:
    """Of a download: bytes over the line, and bytes of disk while it is unpacked."""
    return Need(root, room, (size / LINE[1] / 3600, size / LINE[0] / 3600))


def working(root: Path, disk: int, pace: Pace, items: int, gpus: int) -> Need:
    """Of a step that computes."""
    return Need(root, disk, pace.hours(items, gpus), pace.memory if gpus else 0)


def table(rows: list[tuple[str, str, Need]]) -> str:
    """The steps, and what each disk must hold.

    Args:
        rows: name, reason or `done`, need.
    """
    lines = [
        (
            name,
            readable(need.disk),
            readable(need.memory) if need.memory else "-",
            span(need.hours),
            why,
        )
        for name, why, need in rows
    ]
    low, high = (sum(need.hours[index] for _, _, need in rows) for index in (0, 1))
    disk = total([need for _, _, need in rows])
    lines.append(("all", readable(disk), "", span((low, high)), ""))
    return text_table(("step", "disk", "GPU memory", "hours", "what"), lines)


def span(hours: tuple[float, float]) -> str:
    """Hours from best to worst."""
    low, high = (f"{each:,.0f}" if each >= 10 else f"{each:.1f}" for each in hours)
    return low if low == high else f"{low} to {high}"


def by_disk(needs: list[Need]) -> dict[Path, list[Need]]:
    """Needs by disk; each disk is told by the first folder that lies on it."""
    disks: dict[int, Path] = {}
    found: dict[Path, list[Need]] = {}
    for need in needs:
        there = next(each for each in (need.root.absolute(), *need.root.absolute().parents) if each.exists())
        found.setdefault(disks.setdefault(there.stat().st_dev, need.root), []).append(need)
    return found


def total(needs: list[Need]) -> int:
    """Bytes of disk."""
    return sum(need.disk for need in needs)


def free(needs: list[Need]) -> str:
    """A line a disk: what it must hold, what it has free."""
    return "".join(
        f"disk of {root}: {readable(total(there))} needed, {readable(free_bytes(root))} free\n"
        for root, there in by_disk(needs).items()
    )
