"""What the harness costs with up to a million items: seconds and peak memory of reading, planning, starting.

    python benchmarks/scale.py                                      # 10^4 and 10^5 items, minutes
    python benchmarks/scale.py --items 1000000 --steps sample,pairs
    python benchmarks/scale.py --steps journal,describe             # in stage 1's environment

Items are stand-ins: annotations with every field, frames that are links to a hundred tiny ones. Each step is
a process of its own (`scale_steps.py`). Commands start where all items but the last hundred are done.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from measuring import Reported, SpeedTable, run
from PIL import Image
from scale_steps import COMMANDS, JOURNAL, STEPS, TABLE, VAL

from egogen.cli import flag
from egogen.errors import UserError
from egogen.files import write_json
from egogen.frames import encode
from egogen.layout import DESCRIPTION_KEY, FOLDERS, METRIC_TARGETS, Layout, frame_tar
from egogen.packed_frames import write_tar
from egogen.prepare.formats.image_table import ROWS
from egogen.prepare.run import JOURNALS
from egogen.seen_files import SeenFiles
from egogen.shards import MOST_SHARDS

A_TAR = 1000  # frames
SHARDS = 4  # of descriptions that are merged
A_CLIP = 100  # actions of a clip; the last clip is what is left to do
LABEL = "#C C picks up the {} with his right hand"
TEXT = (
    "The person reaches towards the {} on the table with the right hand, grips it firmly by its handle and "
    "lifts it, while the left hand holds the wooden board in place."
)


@dataclass(frozen=True)
class Scale(Reported):
    """The flags."""

    items: list[int] = flag(
        "numbers of actions, comma-separated", type=lambda text: [int(word) for word in text.split(",")],
        default=lambda: [10_000, 100_000],
    )  # fmt: skip
    steps: list[str] = flag(
        f"comma-separated: {','.join(STEPS)} [all but describe and journal, which are stage 1's]",
        type=lambda text: text.split(","),
        default=lambda: [name for name in STEPS if name not in ("describe", "journal")],
    )

    def __post_init__(self) -> None:
        for step in self.steps:
            if step not in STEPS:
                raise UserError(f"--steps {step}: allowed are {', '.join(STEPS)}")
        for number in self.items:
            if number < 2 * A_CLIP or number % A_CLIP:
                raise UserError(f"--items {number}: expected a multiple of {A_CLIP}, of {2 * A_CLIP} or more")


def entries(first: int, count: int, shared: bool = False) -> dict[str, dict[str, dict[str, str]]]:
    """Annotations of some actions; `shared`: the actions of a clip have one folder."""
    raw: dict[str, dict[str, dict[str, str]]] = {}
    for number in range(first, first + count):
        clip, action = f"clip_{number // A_CLIP:06d}", f"{number % A_CLIP:03d}"
        place = clip if shared else f"{clip}/{action}"
        raw.setdefault(clip, {})[action] = {
            "image_0": f"{place}/frame_{number % A_CLIP:010d}.jpg",
            "image_1": f"{place}/frame_{number % A_CLIP + A_CLIP:010d}.jpg",
            "action": LABEL.format(f"tool {number}"),
            "llava_forecast_finetune": TEXT.format(f"tool {number}"),
        }
    return raw


def make_frames(folder: Path, shared: bool, targets_alone: bool = False) -> None:
    """The frames of a clip."""
    for number in range(A_CLIP):
        for name in (number, number + A_CLIP)[targets_alone:]:
            path = folder / ("" if shared else f"{number:03d}") / f"frame_{name:010d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode(Image.new("RGB", (64, 48), (number, name, 0)), 95))


def link_clips(folder: Path, first: int, count: int, source: Path) -> None:
    """Clips that are links to one."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(first, first + count):
        (folder / f"clip_{number:06d}").symlink_to(source.resolve())


def make_split(root: Path, split: str, first: int, count: int, shared: bool = False) -> None:
    """Annotations and frames of a split, and the targets for the metrics."""
    clips, base = (first // A_CLIP, count // A_CLIP), root / "EgoGen" / FOLDERS["ego4d"]
    write_json(root / "EgoGen" / f"ego4d_{split}.json", entries(first, count, shared))
    link_clips(base / split, *clips, root.parent / ("shared" if shared else "frames"))
    if split == "val" and not shared:
        link_clips(base / METRIC_TARGETS, *clips, root.parent / "targets")


def make_world(root: Path, count: int) -> None:
    """All that steps read: a split of all actions, two of half of them, and these with shared folders."""
    make_frames(root / "frames", shared=False)
    make_frames(root / "shared", shared=True)
    make_frames(root / "targets", shared=False, targets_alone=True)
    sizes = {
        f"clip_{number:06d}": {"height": 48, "width": 64, "fps": 30.0} for number in range(count // A_CLIP)
    }
    make_split(root / "one", "val", 0, count)
    half = count // (2 * A_CLIP) * A_CLIP
    for name in ("two", "folders"):
        make_split(root / name, "train", 0, half, shared=name == "folders")
        make_split(root / name, "val", half, count - half, shared=name == "folders")
    for name in ("one", "two", "folders"):
        write_json(root / name / "EgoGen" / "ego4d_metadata.json", sizes)
    link_clips(root / "one" / "evaluated" / "images", 0, count // A_CLIP, root / "targets")
    make_status(root / "one" / "status", min(count // A_CLIP, MOST_SHARDS))


def make_status(out: Path, shards: int) -> None:
    """A run in shards of a hundred items, all but the last whole."""
    note = {"total": A_CLIP, "before": 0, "done": A_CLIP, "since": "", "token": "0", "seconds": 1.0,
            "pid": os.getpid(), "host": "", "place": ""}  # fmt: skip
    (out / ".shards").mkdir(parents=True)
    write_json(out / ".shards" / "plan.json", {"shards": shards, "together": True, "command": []})
    for number in range(1, shards):
        (out / ".shards" / f"{number}_of_{shards}.done").write_text(json.dumps(note))


def begin(step: str, root: Path, count: int) -> None:
    """Does all but the last clip's actions: those of the first as the command does, the others as links."""
    clips = count // A_CLIP
    if step == "sample":
        child("sample_first", root)
        images = root / "drawn" / "images"
        link_clips(images, 1, clips - 2, images / "clip_000000")
        note_seen(SeenFiles(root / "drawn" / "drawn", images, "rest"), "", count)
    elif step == "sample_tars":
        child("sample_tars_first", root)
        content = encode(Image.new("RGB", (64, 48)), 95)
        for first in range(A_CLIP, count - A_CLIP, A_TAR):
            names = drawn_names(first, min(first + A_TAR, count - A_CLIP))
            write_tar(
                frame_tar(root / "packed" / "images", "rest", first // A_TAR), dict.fromkeys(names, content)
            )
    elif step == "describe":
        everything = (root / VAL).read_bytes()
        write_json(root / VAL, entries(0, A_CLIP))
        child("describe_first", root)
        (root / VAL).write_bytes(everything)
        for kind in ("llava_image", "llava_text"):
            folder = root / "features" / kind
            link_clips(folder, 1, clips - 2, folder / "clip_000000")
            journals = root / "described" / "journals" / kind
            note_seen(SeenFiles(journals, folder, "rest"), ".npy", count)
    elif step == "prepare":
        make_table(root, count)
        child("prepare_first", root)
        layout = Layout(root / "made", "epickitchen")
        link_clips(layout.frames("train"), 1, clips - 2, layout.frames("train") / "clip_000000")
        note_extracted(layout, A_CLIP, count - A_CLIP)
    if step in ("describe", "journal"):
        note_described(root, A_CLIP if step == "describe" else 0, count - A_CLIP)


def make_shards(root: Path, count: int) -> None:
    """Descriptions of all actions in shards."""
    for number in range(SHARDS):
        described = {
            clip: {
                action: {"original action": entry["action"], "description": entry[DESCRIPTION_KEY]}
                for action, entry in actions.items()
                if int(action) % SHARDS == number
            }
            for clip, actions in entries(0, count).items()
        }
        write_json(root / f"texts/shard_{number + 1}_of_{SHARDS}.json", described)


def drawn_names(first: int, end: int, target: bool = True) -> Iterator[str]:
    """Names of the target frames of some actions, or of their input frames."""
    for start in range(first, end, A_CLIP):
        for actions in entries(start, min(A_CLIP, end - start)).values():
            yield from (entry["image_1" if target else "image_0"] for entry in actions.values())


def note_seen(seen: SeenFiles, ending: str, count: int) -> None:
    """Says that the files of all but the first and the last clip were found whole, as the command says it."""
    for name in drawn_names(A_CLIP, count - A_CLIP, target=not ending):
        seen.note(f"{name.removesuffix('.jpg')}{ending}" if ending else name)
    seen.flush()


def note_described(root: Path, first: int, end: int) -> None:
    """Adds actions to the journal of the descriptions."""
    (root / JOURNAL).parent.mkdir(exist_ok=True)
    with (root / JOURNAL).open("a") as file:
        for start in range(first, end, A_CLIP):
            for clip, actions in entries(start, A_CLIP).items():
                for action, entry in actions.items():
                    label, text = entry["action"], entry["llava_forecast_finetune"]
                    row = {"clip": clip, "id": action, "original action": label, "action": label[5:],
                           "description": text, "feature": entry["image_0"]}  # fmt: skip
                    file.write(f"{json.dumps(row)}\n")


def make_table(root: Path, count: int) -> None:
    """A table of pairs, all of the same two pictures."""
    for number in range(2):
        (root / f"{number}.jpg").write_bytes(encode(Image.new("RGB", (64, 48), (number, 0, 0)), 95))
    with (root / TABLE).open("w") as file:
        file.write("image_0,image_1,action,clip,id\n")
        for number in range(count):
            clip, action = f"clip_{number // A_CLIP:06d}", f"{number % A_CLIP:03d}"
            file.write(f"0.jpg,1.jpg,picks up tool {number},{clip},{action}\n")


def note_extracted(layout: Layout, first: int, end: int) -> None:
    """Adds pairs to the journals of `egogen.prepare`, one for each piece of the table."""
    frame = {"pts": None, "seconds": None, "sharpness": 0.0, "sha256": ""}
    size = {"width": 64, "height": 48, "fps": None}
    frames = [{"number": number, **frame} for number in range(2)]
    for start in range(first // ROWS * ROWS, end, ROWS):
        path = layout.preparation / "epickitchen_train" / JOURNALS / f"table-{start}.jsonl"
        with path.open("a") as file:
            for number in range(max(first, start), min(start + ROWS, end)):
                place = {"clip": f"clip_{number // A_CLIP:06d}", "id": f"{number % A_CLIP:03d}"}
                file.write(f"{json.dumps({**place, **size, 'frames': frames})}\n")


def child(step: str, root: Path) -> dict[str, float]:
    """Runs a step: seconds of its work, of a command those of its process; of the processor; GiB at most."""
    words = [sys.executable, str(Path(__file__).with_name("scale_steps.py")), step, str(root)]
    began = time.perf_counter()
    ended = subprocess.run(words, check=False, capture_output=True, text=True)  # noqa: S603 - our own words
    seconds = time.perf_counter() - began
    if ended.returncode:
        raise RuntimeError(f"{words}: exit code {ended.returncode}: {ended.stderr[-2000:]}")
    told = json.loads(ended.stdout.splitlines()[-1])
    return told | {"seconds": seconds} if step in COMMANDS else told


def measure(options: Scale, folder: Path) -> dict[str, SpeedTable]:
    """Measures each step at each number of items."""
    table = SpeedTable(width=18)
    for count in options.items:
        root = folder / f"{count}"
        make_world(root, count)
        for step in options.steps:
            begin(step, root / "one", count)
            if step == "merge":
                make_shards(root / "one", count)
            where = root / {"validate": "two", "validate_folders": "folders"}.get(step, "one")
            table.add(step=step, items=count, **child(step, where))
        shutil.rmtree(root)
    return {"scale": table}


if __name__ == "__main__":
    run(measure, Scale, __doc__)
