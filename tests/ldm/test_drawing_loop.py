"""Reading, drawing and writing overlap: nothing is taken too early, and what was drawn is never lost."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from egogen.annotations import Action, ClipMetadata, Item
from egogen.errors import UserError
from egogen.progress import Progress
from ldm.config.sections import GenerateConfig
from ldm.sampling.drawing_job import DrawingJob
from ldm.sampling.drawing_loop import Drawn, draw_job, in_advance
from ldm.sampling.drawing_plan import Scales

WAIT = 10  # seconds until a thread that hangs fails its test


def test_results_keep_their_order_and_few_tasks_are_taken_in_advance() -> None:
    taken: list[int] = []

    def tasks() -> Iterator[int]:
        for number in range(5):
            taken.append(number)
            yield number

    with ThreadPoolExecutor(1) as pool:
        for index, result in enumerate(in_advance(pool, lambda number: number**2, tasks())):
            assert result == index**2
            assert len(taken) <= index + 2
    assert len(taken) == 5


def test_the_next_task_is_worked_on_while_a_result_is_used() -> None:
    began = [threading.Event() for _ in range(3)]

    def work(number: int) -> int:
        began[number].set()
        return number

    with ThreadPoolExecutor(1) as pool:
        for number in in_advance(pool, work, range(2)):
            assert began[min(number + 1, 1)].wait(WAIT)


def test_an_error_comes_in_its_turn() -> None:
    with ThreadPoolExecutor(1) as pool:
        results = in_advance(pool, lambda number: 6 // number, [3, 2, 0, 1])
        assert [next(results), next(results)] == [2, 3]
        with pytest.raises(ZeroDivisionError):
            next(results)


def make_job(out: Path, count: int) -> DrawingJob:
    items = [
        Item("c", f"{i}", Action({"image_0": f"c/{i}/a.jpg", "image_1": f"c/{i}/b.jpg", "action": "cut"}))
        for i in range(count)
    ]
    sizes = {"c": ClipMetadata(height=8, width=16, fps=30)}
    return DrawingJob(out, Scales(7.5, 1.5), GenerateConfig(), {}, dict, sizes, items)


def frames(job: DrawingJob, end: BaseException | None) -> Generator[Drawn, None, None]:
    """Batches of two frames, the second of them not finite; then an end of some kind."""
    for first in range(0, len(job.items), 2):
        drawn = torch.zeros(2, 3, 8, 8)
        drawn[1] = torch.nan
        yield Drawn(job.items[first : first + 2], drawn)
    if end is not None:
        raise end


@pytest.mark.parametrize("end", [None, KeyboardInterrupt(), RuntimeError("the networks fail")])
def test_frames_that_are_drawn_are_written_however_it_ends(tmp_path: Path, end: BaseException | None) -> None:
    job, bar = make_job(tmp_path, 6), Progress(total=6, disable=True)
    if end is None:
        assert draw_job(job, frames(job, end), bar) == [job.path(item) for item in job.items[1::2]]
    else:
        with pytest.raises(type(end)):
            draw_job(job, frames(job, end), bar)
    written = [job.path(item).exists() for item in job.items]
    assert written == [True, False] * 3


def test_a_frame_that_cannot_be_written_ends_the_drawing_and_leaves_the_others(tmp_path: Path) -> None:
    job = make_job(tmp_path, 6)
    job.path(job.items[2]).mkdir(parents=True)  # where a frame should go
    asked: list[int] = []

    def watched() -> Generator[Drawn, None, None]:
        for drawn in frames(job, None):
            asked.append(len(drawn.items))
            yield drawn

    drawing = watched()
    with pytest.raises(UserError, match=r"c/2/b\.jpg: is a folder"):
        draw_job(job, drawing, Progress(total=6, disable=True))
    assert drawing.gi_frame is None  # it is closed, and what reads ahead for it
    assert job.path(job.items[0]).is_file()
    assert len(asked) <= 3
