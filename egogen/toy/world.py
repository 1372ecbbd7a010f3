"""Writes the toy world in the official EgoGen layout, for both data sets."""

from __future__ import annotations

import gc
import logging
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple, get_args

from egogen.conversations import Conversation, Turn, write_conversations
from egogen.errors import UserError
from egogen.files import atomic_open, ends_with, write_json
from egogen.frames import JPEG_END, encode
from egogen.layout import FOLDERS, Layout, Split, image_name
from egogen.manifest import NAME, claim
from egogen.progress import Progress
from egogen.seeds import item_seed
from egogen.toy.actions import imagine
from egogen.toy.clip_facts import FramePair, metadata
from egogen.toy.render import Renderer
from egogen.toy.wording import description, label, question

log = logging.getLogger(__name__)

# Part of the manifest: a change of the pictures makes another world.
RENDERER_VERSION = 2
MIN_SIZE, MAX_SIZE = 32, 1024
MOST_PAIRS = 1_000_000  # of a split; more are a slip
ACTION_ID = "0"
# The input frame's number is the smaller: some readers take the first file of the folder as the input.
FRAME_0, FRAME_1 = 30, 45
JPEG_QUALITY = 92


class Task(NamedTuple):
    """One pair to be made."""

    dataset: str
    split: Split
    number: int

    @property
    def clip(self) -> str:
        """The clip's id."""
        return f"toy_{self.split}_{self.number:06d}"

    def image(self, number: int) -> str:
        """A frame's path relative to the split folder."""
        return image_name(self.clip, ACTION_ID, number)


class Record(NamedTuple):
    """What the JSON files say about one pair."""

    task: Task
    action: dict[str, str]
    facts: dict[str, object]
    curated: Conversation


def write_world(
    out: Path, train: int, val: int, size: int = 64, seed: int = 0, workers: int | None = None
) -> None:
    """Writes both data sets below `out/EgoGen`; a complete world is left as it is.

    Args:
        out: the data root.
        train: pairs in each train split.
        val: pairs in each val split.
        size: frame height in pixels, 32 to 1024; the width is 16/9 of it.
        seed: of the world; a pair depends on it, the data set, the split and its number alone.
        workers: processes; by default as many as cores.

    Raises:
        UserError: a setting is out of bounds, or `out` holds other data.
    """
    check(train, val, size, workers)
    egogen = Layout(out, "ego4d").egogen
    if not (egogen / NAME).exists() and egogen.exists() and any(egogen.iterdir()):
        raise UserError(f"{egogen}: holds data that are not a toy world; choose another --out")
    settings = {"size": size, "seed": seed, "train": train, "val": val, "renderer": RENDERER_VERSION}
    claim(egogen, {"kind": "toy world", **settings})
    if is_complete(out, train, val):
        log.info("%s: the toy world is complete", out)
        return
    with Progress(total=2 * (train + val), desc="toy world", unit="pair") as bar:
        for dataset in FOLDERS:
            make = partial(make_pair, out=out, size=size, seed=seed)
            records = []
            for record in spread(make, tasks_of(dataset, train, val), workers):
                records.append(record)
                bar.update()
            write_texts(Layout(out, dataset), records)


def tasks_of(dataset: str, train: int, val: int) -> list[Task]:
    """All pairs of a data set."""
    counts: dict[Split, int] = {"train": train, "val": val}
    return [Task(dataset, split, number) for split, count in counts.items() for number in range(count)]


def check(train: int, val: int, size: int, workers: int | None) -> None:
    """Refuses settings that make no world."""
    for name, count in (("--train", train), ("--val", val)):
        if not 0 <= count <= MOST_PAIRS:
            raise UserError(f"{name} {count}: expected 0 to {MOST_PAIRS} pairs")
    if not MIN_SIZE <= size <= MAX_SIZE:
        raise UserError(f"--size {size}: expected {MIN_SIZE} to {MAX_SIZE} pixels of frame height")
    if workers is not None and workers < 1:
        raise UserError(f"--workers {workers}: expected 1 or more processes")


def is_complete(out: Path, train: int, val: int) -> bool:
    """Whether every file of the world is there to its end. The texts come after the frames that they name."""
    for dataset in FOLDERS:
        layout = Layout(out, dataset)
        texts = [layout.metadata, layout.conversations, *map(layout.annotations, get_args(Split))]
        frames = [path for task in tasks_of(dataset, train, val) for path in frame_paths(layout, task)]
        ends = {**dict.fromkeys(texts, b"\n"), **dict.fromkeys(frames, JPEG_END)}
        if not all(ends_with(path, end) for path, end in ends.items()):
            return False
    return True


def frame_paths(layout: Layout, task: Task) -> list[Path]:
    """Input, target and, in the val split, the target among the metric targets."""
    return layout.pair_files(task.split, task.image(FRAME_0), task.image(FRAME_1))


def spread(make: Callable[[Task], Record], tasks: list[Task], workers: int | None) -> Iterator[Record]:
    """Makes pairs in several processes, in order."""
    processes = min(workers or os.cpu_count() or 1, max(1, len(tasks) // 16))
    if processes == 1:
        yield from map(make, tasks)
        return
    # Forked workers start at once and need no importable main module; only on Linux is forking safe.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    with context.Pool(processes, begin) as pool:
        yield from pool.imap(make, tasks, chunksize=16)


def begin() -> None:
    """A worker's first step: Ctrl-C is for the parent, which then ends it, and so is what the parent left."""
    gc.freeze()
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def make_pair(task: Task, out: Path, size: int, seed: int) -> Record:
    """Draws and writes one pair."""
    story = imagine(item_seed(seed, task.dataset, task.split, str(task.number)))
    renderer = Renderer(story.scene, size)
    frames = FramePair(renderer.draw(story.before), renderer.draw(story.after))
    before, after = (encode(frame, JPEG_QUALITY) for frame in frames)
    for path, content in zip(
        frame_paths(Layout(out, task.dataset), task), (before, after, after), strict=False
    ):
        with atomic_open(path) as file:
            file.write(content)
    said, answer = label(story, task.dataset), description(story)
    action = {"image_0": task.image(FRAME_0), "image_1": task.image(FRAME_1), "action": said}
    turns = [
        Turn.model_validate({"from": "human", "value": question(story, task.dataset)}),
        Turn.model_validate({"from": "gpt", "value": answer}),
    ]
    curated = Conversation(id=f"{task.clip}_{ACTION_ID}", image=action["image_0"], conversations=turns)
    return Record(task, action, metadata(story, frames, said, answer), curated)


def write_texts(layout: Layout, records: list[Record]) -> None:
    """Writes annotations, metadata and, for the train split, the curated conversations of a data set."""
    for split in get_args(Split):
        actions = {
            record.task.clip: {ACTION_ID: record.action} for record in records if record.task.split == split
        }
        write_json(layout.annotations(split), actions)
    write_json(layout.metadata, {record.task.clip: record.facts for record in records})
    curated = [record.curated for record in records if record.task.split == "train"]
    write_conversations(layout.conversations, curated)
