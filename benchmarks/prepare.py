"""How fast frames are extracted beside seeking once a frame, and what 100,000 annotations cost.

    python benchmarks/prepare.py                       # about two minutes
    python benchmarks/prepare.py --actions 10000 --seconds 30

The videos are made up, with as many actions a minute as Ego4D has; both ways decode the same frames of the
same file in one thread. The annotations have every field of fho_main.json; time and memory are those of the
command in a process of its own, once with --dry-run and once with all frames there already.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import av
import numpy as np
from measuring import Reported, SpeedTable, clock, process_gib, run
from PIL import Image

from egogen.cli import flag
from egogen.files import write_json
from egogen.frames import encode
from egogen.layout import Layout
from egogen.prepare.ego4d.ego4d_file import read_videos
from egogen.prepare.ego4d.ego4d_pairs import make_plan, read_splits
from egogen.prepare.frames.video import VideoFile
from egogen.prepare.options import CRITICAL_FRAMES, Ego4DOptions
from egogen.prepare.pair_plan import pair_journal
from egogen.prepare.run import JOURNALS

FPS, WIDTH, HEIGHT = 30, 640, 480
# Ego4D has about 16 annotated actions a minute, each with two frames half a second to a second apart.
ACTIONS_A_MINUTE = 16
CODECS = {
    "H.264, a key frame in 250": ("libx264", {"preset": "medium", "g": "250"}),
    "VP9, a key frame in 128": ("libvpx-vp9", {"deadline": "realtime", "cpu-used": "8", "g": "128"}),
}
ACTIONS_A_CLIP = 80
# File systems allow so many names of one file.
MOST_LINKS = 60_000


@dataclass(frozen=True)
class PrepareSpeed(Reported):
    """The flags."""

    seconds: int = flag("length of the videos", type=int, default=60)
    actions: int = flag("annotated ones", type=int, default=100_000)


def make_video(path: Path, codec: str, options: dict[str, str], seconds: int) -> None:
    """A camera that moves over a picture."""
    small = np.random.default_rng(0).integers(0, 256, (HEIGHT // 8, WIDTH // 8, 3), np.uint8)
    scene = np.asarray(Image.fromarray(small).resize((2 * WIDTH, 2 * HEIGHT), Image.Resampling.BICUBIC))
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=FPS, options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(seconds * FPS):
            x, y = int(WIDTH * (0.5 + np.sin(number / 40) / 3)), int(HEIGHT * (0.5 + np.cos(number / 55) / 3))
            view = np.ascontiguousarray(scene[y : y + HEIGHT, x : x + WIDTH])
            file.mux(stream.encode(av.VideoFrame.from_ndarray(view, "rgb24")))
        file.mux(stream.encode())


def seek_each(path: Path, numbers: Sequence[int]) -> None:
    """Seeks to the key frame before every frame and decodes from there."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        for number in numbers:
            stamp = round(number / FPS / stream.time_base) + stream.start_time
            container.seek(stamp, stream=stream)
            for frame in container.decode(stream):
                if frame.pts >= stamp:
                    frame.to_image()
                    break


def one_pass(path: Path, numbers: Sequence[int]) -> None:
    """What `egogen.prepare` does."""
    with VideoFile(path).open() as video:
        for _ in video.images(sorted(set(numbers))):
            pass


def extraction(folder: Path, seconds: int) -> SpeedTable:
    """Measures both ways, with the annotated frames alone and with three more on each side."""
    rng, count = np.random.default_rng(0), ACTIONS_A_MINUTE * seconds // 60
    first, away = rng.integers(3, (seconds - 2) * FPS, count), rng.integers(15, 40, count)
    numbers = np.stack([first, first + away], axis=1).ravel().tolist()
    wide = [number + away for number in numbers for away in range(-3, 4)]
    table = SpeedTable(width=28)
    for name, (codec, options) in CODECS.items():
        path = folder / f"{codec}.mp4"
        make_video(path, codec, options, seconds)
        for wanted in (numbers, wide):
            slow, fast = (clock(partial(work, path, wanted)).seconds for work in (seek_each, one_pass))
            table.add(video=name, frames=len(wanted), seek_each_s=slow, one_pass_s=fast, gain=slow / fast)
    total = {key: sum(row[key] for row in table) for key in ("frames", "seek_each_s", "one_pass_s")}
    table.add(video="all", **total, gain=total["seek_each_s"] / total["one_pass_s"])
    return table


def action(number: int) -> dict[str, object]:
    """A narrated action with boxes in all seven frames."""
    start = 9.0 + number * 3
    frames = {name: round(start * FPS) + 15 * index for index, name in enumerate(CRITICAL_FRAMES)}
    box = {"x": 123.45, "y": 234.56, "width": 345.67, "height": 456.78}
    boxes = [
        {"object_type": kind, "structured_noun": "carrot", "instance_number": 1, "bbox": box}
        for kind in ("left_hand", "right_hand", "object_of_change")
    ]
    return {
        "warnings": [], "uid": f"{number:036d}", "start_sec": start, "end_sec": start + 8, "start_frame": 0,
        "end_frame": 240, "is_valid_action": True, "is_partial": False, "clip_start_sec": start,
        "clip_end_sec": start + 8, "clip_start_frame": 0, "clip_end_frame": 240, "reject_reason": None,
        "narration_timestamp_sec": start, "clip_narration_timestamp_sec": start, "stage": "stage_2",
        "narration_text": f"#C C cuts the carrot {number} on the board", "freeform_verb": None,
        "narration_annotation_uid": f"{number:036d}", "structured_verb": "cut_(trim,_slice,_chop)",
        "state_transition": None, "critical_frames": frames, "clip_critical_frames": frames,
        "frames": [{"frame_number": frames[name], "frame_type": name, "boxes": boxes} for name in frames],
        "is_rejected": False, "is_invalid_annotation": False,
    }  # fmt: skip


def make_annotations(root: Path, actions: int) -> None:
    """Writes fho_main.json with its splits, every tenth clip in val, and names of clips."""
    (root / "clips").mkdir(parents=True)
    made = [action(number) for number in range(ACTIONS_A_CLIP)]
    meta = {"fps": 30.0, "width": 1440, "height": 1080, "num_frames": 9000}
    videos, clips = [], {"train": [], "val": []}
    for index, first in enumerate(range(0, actions, ACTIONS_A_CLIP)):
        uid, part = f"{index:08d}-0000-0000-0000-000000000000", made[: actions - first]
        (root / "clips" / f"{uid}.mp4").touch()
        clips["val" if index % 10 == 9 else "train"].append({"clip_uid": uid})
        interval = {"clip_id": "1", "clip_uid": uid, "redacted": False, "narrated_actions": part}
        videos.append({"video_uid": f"v{uid}", "video_metadata": meta, "annotated_intervals": [interval]})
    (root / "annotations").mkdir()
    (root / "annotations" / "fho_main.json").write_text(json.dumps({"version": "2.0", "videos": videos}))
    for split, found in clips.items():
        write_json(root / "annotations" / f"fho_lta_{split}.json", {"clips": found})


def make_frames(root: Path) -> None:
    """Writes what an earlier run would have left: frames (names of the same few files) and journals."""
    files = {split: root / "annotations" / f"fho_lta_{split}.json" for split in ("train", "val")}
    options = Ego4DOptions(annotations=root / "annotations", clips=root / "clips", min_window=0.0)
    names = (options.input, options.target)
    videos = read_videos(root / "annotations" / "fho_main.json", names, clips=True)
    layout, rows, links = Layout(root / "out", "ego4d"), dict[str, list[dict[str, object]]](), 0
    for pair in make_plan(videos, read_splits(files), options).kept():
        frames = [
            {"number": moment.number, "pts": 512 * moment.number, "seconds": moment.number / FPS,
             "sharpness": 100.0, "sha256": f"{moment.number:064x}"} for moment in pair.moments
        ]  # fmt: skip
        row = {"clip": pair.clip, "id": pair.id, "width": 1440, "height": 1080, "fps": 30.0, "frames": frames}
        pair.row = row  # it names the images
        rows.setdefault(pair.source.name, []).append(row)
        for path in layout.pair_files(pair.split, *pair.images):
            original = root / f"{links // MOST_LINKS}.jpg"
            if not original.exists():
                original.write_bytes(encode(Image.new("RGB", (341, 256)), 95))
            path.parent.mkdir(parents=True, exist_ok=True)
            os.link(original, path)
            links += 1
    for name, lines in rows.items():
        pair_journal(layout.preparation / "ego4d_train_val" / JOURNALS / f"{name}.jsonl").add(lines)


def command(root: Path, *more: str, code: int = 0) -> None:
    """Runs the command, which ends with a code."""
    words = [sys.executable, "-m", "egogen.prepare", "ego4d", "--annotations", str(root / "annotations"),
             "--clips", str(root / "clips"), "--out", str(root / "out"), *more]  # fmt: skip
    ended = subprocess.run(words, check=False, stderr=subprocess.DEVNULL)  # noqa: S603 - our own words
    assert ended.returncode == code, f"{words}: exit code {ended.returncode}"


def scale(root: Path, actions: int) -> SpeedTable:
    """Measures the command on many annotations."""
    make_annotations(root, actions)
    size = (root / "annotations" / "fho_main.json").stat().st_size / 1e6
    print(f"\n{actions:,} annotated actions, fho_main.json of {size:,.0f} MB")
    table = SpeedTable(width=28)

    def add(name: str, *more: str) -> None:
        seconds = clock(partial(command, root, *more)).seconds
        # Children are counted by the largest so far: each command here needs more than the one before it.
        peak = process_gib(resource.RUSAGE_CHILDREN)
        table.add(command=name, actions=actions, seconds=seconds, peak_gib=peak)

    add("--dry-run", "--dry-run")
    # Claims the folder; the made-up clips are empty files, so it ends with one broken source.
    command(root, "--limit", "1", code=11)
    make_frames(root)
    add("all frames there")
    return table


def measure(options: PrepareSpeed, folder: Path) -> dict[str, SpeedTable]:
    """Measures extraction and scale."""
    extracted = extraction(folder, options.seconds)
    return {"extraction": extracted, "scale": scale(folder / "ego4d", options.actions)}


if __name__ == "__main__":
    run(measure, PrepareSpeed, __doc__)
