"""Draws what jobs have left: the next batch is read and the last one written while the networks compute."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from egogen.annotations import Item
from egogen.errors import UserError
from egogen.progress import Progress
from ldm.data.noise import item_generator
from ldm.data.pairs import EgoGenPairs, Sample, SplitFiles, stack
from ldm.networks.pixels import frame_size, to_frame
from ldm.sampling.drawing_job import DrawingJob
from ldm.sampling.drawing_plan import Drawer, DrawingPlan, Request, copy_frame
from ldm.sampling.timing import note_time

log = logging.getLogger(__name__)
AHEAD = 1  # batches that are read, or wait to be written, while another is drawn
Task = TypeVar("Task")
Result = TypeVar("Result")


class Drawn(NamedTuple):
    """Some items, and what the networks made of them, [b, 3, r, r]."""

    items: Sequence[Item]
    frames: Tensor


def load_drawer(plan: DrawingPlan) -> Drawer | None:
    """What draws, with its networks, whose imports take seconds; None for `copy`, which needs none."""
    if plan.ckpt is None:
        return None
    from ldm.sampling.methods import make_drawer

    return make_drawer(plan, plan.ckpt)


def draw_jobs(
    work: Sequence[DrawingJob],
    drawer: Drawer | None,
    files: SplitFiles,
    device: torch.device,
    drawn: Callable[[int], object] | None = None,
) -> None:
    """Draws what all jobs have left; copies source frames if there is no drawer.

    `drawn` is called with the number of frames that were written.

    Raises:
        UserError: after the last job, if frames are not finite.
    """
    broken: list[Path] = []
    for job in work:
        began = time.monotonic()
        doing, total = "copy" if drawer is None else "draw", len(job.items)
        with Progress(desc=doing, total=total, unit="frame", also=drawn) as bar:
            if drawer is None:
                copy(job, files, bar)
            else:
                broken += draw_job(job, drawings(drawer, files, job, device), bar)
        if job.items and job.claimed:
            note_time(job.out, len(job.items), time.monotonic() - began, device.type)
        log.info("wrote %s", job.out / "images")
    if broken:
        count = sum(len(job.items) for job in work)
        raise UserError(
            f"{broken[0]}: not finite, as are {len(broken)} of {count} frames; they are not written, the "
            "others are. Try sampling.precision=32, or another checkpoint"
        )


def draw_job(job: DrawingJob, drawn: Generator[Drawn, None, None], bar: Progress) -> list[Path]:
    """Writes what is drawn; returns where those frames would be that are not finite.

    However the drawing ends, what was drawn before is written.
    """
    try:
        with ThreadPoolExecutor(1) as writer, closing(drawn):
            return [path for paths in in_advance(writer, partial(write, job, bar), drawn) for path in paths]
    finally:
        job.output.flush()


def write(job: DrawingJob, bar: Progress, drawn: Drawn) -> list[Path]:
    """Writes frames, and returns where those would be that are not finite."""
    broken = []
    for item, frame in zip(*drawn, strict=True):
        size = job.sizes[item.clip]
        if frame.isfinite().all():
            shown = job.config.sampling.output_range
            job.save(item, to_frame(frame, size.height, size.width, shown, job.side))
        else:
            broken.append(job.path(item))
        bar.update()
    return broken


def in_advance(
    pool: Executor, work: Callable[[Task], Result], tasks: Iterable[Task], ahead: int = AHEAD
) -> Iterator[Result]:
    """A pool's results for tasks, in their order; while one is used, `ahead` more are worked on at most."""
    waiting: deque[Future[Result]] = deque()
    for task in tasks:
        waiting.append(pool.submit(work, task))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def drawings(
    drawer: Drawer, files: SplitFiles, job: DrawingJob, device: torch.device
) -> Generator[Drawn, None, None]:
    """Draws a job's items in batches.

    An item's noise depends on the seed and its own id alone.
    """
    seed, size = job.config.sampling.seed, job.config.sampling.batch_size
    pairs = EgoGenPairs([files], targets=False)

    def read(first: int) -> tuple[list[Item], list[Sample]]:
        rows = job.rows[first : first + size].tolist()
        return [files.items[row] for row in rows], [pairs[row] for row in rows]

    with ThreadPoolExecutor(1) as reader:
        for part, samples in in_advance(reader, read, range(0, len(job.rows), size)):
            stacked = stack(samples, device, pairs.visions)
            request = Request(
                stacked["source"],
                [sample["prompt"] for sample in samples],
                [item_generator(seed, item.clip, item.id) for item in part],
                job.scales,
                stacked.get("vllm_image"),
                stacked.get("vllm_text"),
            )
            yield Drawn(part, drawer(request))


def copy(job: DrawingJob, files: SplitFiles, bar: Progress) -> None:
    """Writes a job's source frames at the size of generated ones."""
    try:
        for item in job.items:
            clip = job.sizes[item.clip]
            size = frame_size(job.side, clip.height, clip.width)
            job.save(item, copy_frame(files.frames.read(item.action.image_0), *size))
            bar.update()
    finally:
        job.output.flush()
