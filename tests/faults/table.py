"""Commands by faults: what is done in each cell; which cells make no sense, and why."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from tests.faults.bench import Bench
from tests.faults.cases import COMMANDS, matches

POINTS = 20
MISTAKE = 2
WITHOUT = range(10, 111)  # codes of `egogen.prepare`, which made what could be made without some sources


@dataclass(frozen=True)
class Fault:
    """A row of the table.

    Args:
        words: as the page says it.
        work: does it to a command, and asserts.
        left_out: reasons by command, for cells that make no sense.
    """

    words: str
    work: Callable[[Bench], None]
    left_out: Mapping[str, str]


def killed(bench: Bench, numbers: Iterator[int] | range) -> None:
    """SIGKILL before each of these changes, each time from the beginning."""
    for number in dict.fromkeys(numbers):
        bench.fresh()
        run = bench.run("kill", number)
        assert run.poll() in (-9, 0), run.printed  # 0: a run that is quicker than its like has fewer changes
        bench.check_visible()
        bench.finish()


def killed_in_quarter(bench: Bench, quarter: int) -> None:
    """Five of the 20 points that are spread over the run, each later than the one before.

    The command is started again on what is left, and killed again.
    """
    bench.fresh()
    for each in range(5 * quarter, 5 * quarter + 5):
        if bench.run("kill", bench.point(each / (POINTS - 1))).poll() == 0:  # it got to its end before
            bench.fresh()
            bench.run("kill", bench.point(each / (POINTS - 1)))
        bench.check_visible()
    bench.finish()


def killed_after_renames(bench: Bench) -> None:
    """Between an output's rename and what comes next: its journal's line, the next output."""
    renames = [number for number, event in enumerate(bench.events, start=1) if event == "os.rename"]
    killed(bench, iter(sorted({renames[len(renames) // 3] + 1, renames[-1] + 1})))


def ended(bench: Bench, kind: str, codes: tuple[int, ...]) -> None:
    """A signal that a command may act upon."""
    for share in (0.6,):
        bench.fresh()
        run = bench.run(kind, bench.point(share))
        # A forked process whose last steps the second Ctrl-C meets ends with 1.
        assert run.poll() in codes or "interrupted; run" in run.printed, (run.poll(), run.printed[-2000:])
        assert "Traceback" not in run.printed, run.printed[-3000:]
        bench.check_visible()
        bench.finish()


def refused(bench: Bench, kind: str, shares: tuple[float, ...] = (0.5,), largest: int = 0) -> None:
    """The system refuses to write: one line that says so, no traceback."""
    for share in shares:
        bench.fresh()
        run = bench.run(kind, bench.point(share), largest=largest)
        assert run.poll() != 0, run.printed
        assert "Traceback" not in run.printed, run.printed[-3000:]
        assert run.poll() == MISTAKE, (run.poll(), run.printed[-2000:])
        bench.check_visible()
        bench.finish()


def small_files(bench: Bench) -> None:
    """No file may grow beyond half of the largest one."""
    refused(bench, "small files", largest=bench.largest // 2)


def input_output_error(bench: Bench) -> None:
    """One change fails, whatever it is; the command may have a second way."""
    for share in (0.4, 0.9):
        bench.fresh()
        run = bench.run("input/output error", bench.point(share))
        assert run.poll() is not None
        bench.check_visible()
        bench.finish()


def two_at_once(bench: Bench) -> None:
    """The second starts while the first is half-way: it is refused by name, or waits, or does the same."""
    bench.fresh()
    first = bench.start("pause", bench.point(0.5))
    paused, go = (bench.counter.with_suffix(end) for end in (".paused", ".go"))
    until(lambda: paused.exists() or first.poll() is not None, 120)
    second = bench.start()
    second.process.join(15)
    go.touch()
    assert first.wait() == 0, first.printed[-3000:]
    assert second.wait() in (0, MISTAKE), second.printed[-3000:]
    assert second.poll() == 0 or "under way" in second.printed, second.printed[-3000:]
    bench.check_visible()
    bench.finish()


def until(condition: Callable[[], bool], seconds: float) -> None:
    """Waits for something."""
    import time

    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came to be"
        time.sleep(0.01)


def clock_set_back(bench: Bench) -> None:
    """All that the killed run left is a day younger than the clock says it is now."""
    bench.fresh()
    bench.run("kill", bench.point(0.6))
    for path in bench.case.made.rglob("*"):
        tomorrow = path.lstat().st_mtime + 86400
        os.utime(path, (tomorrow, tomorrow), follow_symlinks=False)
    bench.finish()


def newest_damaged(bench: Bench) -> None:
    """Half of the newest output is gone, as after a crash of a machine whose disk lied."""
    bench.fresh()
    bench.run("kill", bench.point(0.9))
    found = [path for name, path in bench.files().items() if matches(bench.case.newest, name)]
    if not found:  # what comes at the very end
        bench.run()
        found = [path for name, path in bench.files().items() if matches(bench.case.newest, name)]
    newest = max(found, key=lambda path: (path.stat().st_mtime_ns, path.name))
    os.truncate(newest, newest.stat().st_size // 2)
    if bench.case.asks_to_move:  # such a file may be somebody's own
        run = bench.run()
        assert run.poll() == MISTAKE
        assert f"{newest}: is not the published file" in run.printed, run.printed
        newest.unlink()
    bench.finish(twice=True)


def journal_torn(bench: Bench) -> None:
    """The journals' last lines lack their ends."""
    bench.fresh()
    bench.run("kill", bench.point(0.7))
    patterns = (bench.case.journals, bench.case.joined)
    torn = [path for name, path in bench.files().items() if any(matches(each, name) for each in patterns)]
    assert torn, "no journal is there yet"
    for path in torn:
        os.truncate(path, max(0, path.stat().st_size - 7))
    bench.finish()


def no_memory(bench: Bench) -> None:
    """The process gets no more memory, however it ends."""
    for share in (0.5,):
        bench.fresh()
        bench.run("no memory", bench.point(share))
        bench.check_visible()
        bench.finish()


def input_damaged(bench: Bench, kind: str, content: Callable[[bytes], bytes]) -> None:
    """One line names the input; with the input mended, nothing of the failed run is in the way."""
    path = bench.case.inputs[kind]
    bench.fresh()
    try:
        bench.damage(path, content(path.read_bytes()))
        run = bench.run()
        assert run.poll() != 0, run.printed
        assert "Traceback" not in run.printed, run.printed[-3000:]
        assert bench.case.told.get(kind, path.name) in run.printed, run.printed
        if run.poll() not in WITHOUT:
            bench.check_visible()
    finally:
        bench.mend()
    bench.finish(twice=True)


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def empty(content: bytes) -> bytes:
    del content
    return b""


def with_nan(content: bytes) -> bytes:
    """An array with one value that is none."""
    import io

    import numpy as np

    values = np.load(io.BytesIO(content))
    values[values.shape[0] // 2, 0] = np.nan
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def worker_dies(bench: Bench) -> None:
    """The process that reads the inputs is killed as the system does that has no more memory."""
    bench.fresh()
    run = bench.run("worker dies", 0, *bench.case.worker_words, reads=bench.case.worker)
    assert run.poll() not in (0, None), run.printed
    if run.poll() not in WITHOUT:
        bench.check_visible()
    bench.finish(*bench.case.worker_words, twice=True)


def worker_hangs(bench: Bench) -> None:
    """A time limit ends it, and the source counts as broken; the next run reads it."""
    bench.fresh()
    run = bench.run("worker hangs", 0, "--patience", "2", reads=bench.case.worker)
    assert run.poll() not in (0, None), run.printed
    assert "got nothing done for 2 s" in run.printed, run.printed
    bench.finish(twice=True)


EVERY = tuple(COMMANDS)
INPUTS = {
    "annotations": (
        "prepare", "curate", "describe", "train, stage 1", "train, stage 2", "distill", "sample", "evaluate",
    ),
    "frame": ("describe", "train, stage 1", "train, stage 2", "distill", "sample", "edit", "evaluate"),
    "features": ("train, stage 2", "distill", "sample"),
    "checkpoint": ("describe", "train, stage 1", "train, stage 2", "distill", "sample", "edit", "page"),
    "video": ("prepare",),
}  # fmt: skip
JOURNALS = ("prepare", "curate", "describe")
WORKERS = ("prepare", "train, stage 1", "train, stage 2", "distill")
NO_INPUT, NO_WORKERS, NO_DECODER = "reads none", "has no such processes", "has no decoder in another process"


def but(commands: tuple[str, ...], why: str) -> dict[str, str]:
    """The reason for all other commands."""
    return {name: why for name in EVERY if name not in commands}


def inputs(words: str, kind: str, content: Callable[[bytes], bytes]) -> Fault:
    """A row of damaged inputs."""
    return Fault(words, partial(input_damaged, kind=kind, content=content), but(INPUTS[kind], NO_INPUT))


NO_JOURNAL = "keeps no journal of lines"
FAULTS: dict[str, Fault] = {
    **{
        f"kill_{quarter + 1}": Fault(
            f"SIGKILL, points {5 * quarter + 1} to {5 * quarter + 5} of 20",
            partial(killed_in_quarter, quarter=quarter), {},
        )
        for quarter in range(4)
    },
    "kill_renamed": Fault("SIGKILL right after an output got its name", killed_after_renames, {}),
    "sigterm": Fault("SIGTERM", partial(ended, kind="terminate", codes=(-15, 143, 0)), {}),
    "sigint_twice": Fault("Ctrl-C twice", partial(ended, kind="interrupt twice", codes=(130, -2, 0)), {}),
    "disk_full": Fault("disk full from the middle on", partial(refused, kind="disk full"), {}),
    "quota": Fault("quota used up from the middle on", partial(refused, kind="quota"), {}),
    "small_files": Fault("no file beyond a size (`ulimit -f`)", small_files, {}),
    "read_only": Fault(
        "output read-only from the start, or later", partial(refused, kind="read-only", shares=(0.0, 0.5)), {}
    ),
    "io_error": Fault("one input/output error", input_output_error, {}),
    "two_at_once": Fault("a second process on the same output", two_at_once, {}),
    "clock": Fault("clock set back a day", clock_set_back, {}),
    "newest": Fault("newest output or checkpoint cut in half", newest_damaged, {}),
    "journal": Fault("last line of the journal torn", journal_torn, but(JOURNALS, NO_JOURNAL)),
    "no_memory": Fault("out of memory", no_memory, {}),
    "annotations_cut": inputs("annotations cut off", "annotations", cut),
    "annotations_empty": inputs("annotations empty", "annotations", empty),
    "frame_cut": inputs("a frame cut off", "frame", cut),
    "frame_empty": inputs("a frame empty", "frame", empty),
    "features_cut": inputs("a feature file cut off", "features", cut),
    "features_empty": inputs("a feature file empty", "features", empty),
    "features_nan": inputs("NaN in a feature file", "features", with_nan),
    "checkpoint_cut": inputs("the checkpoint cut off", "checkpoint", cut),
    "checkpoint_empty": inputs("the checkpoint empty", "checkpoint", empty),
    "video_cut": inputs("a video cut off", "video", cut),
    "video_empty": inputs("a video empty", "video", empty),
    "hang": Fault("a decoder that hangs", worker_hangs, but(("prepare",), NO_DECODER)),
    "worker": Fault("a loader's or decoder's process is killed", worker_dies, but(WORKERS, NO_WORKERS)),
}  # fmt: skip
CELLS = [
    (command, fault) for command in COMMANDS for fault in FAULTS if command not in FAULTS[fault].left_out
]
