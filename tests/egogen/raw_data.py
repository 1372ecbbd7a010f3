"""Made-up raw data for the tests of `egogen.prepare`: videos that say which frame is which, annotations."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from egogen.annotations import Annotations
from egogen.frames import read_frame
from egogen.layout import Layout
from egogen.prepare.__main__ import main
from egogen.toy.world import write_world

# A frame's number is drawn as ten bright or dark blocks, five a row, over a dark ground.
BITS, ACROSS, DOWN = 10, 5, 2
WIDTH, HEIGHT = 80, 48
# Of the filmed toy world; codecs take even sizes.
TOY_SIZE = 114, 64
VP9 = {"deadline": "realtime", "cpu-used": "8"}


def drawn(number: int, width: int = WIDTH, height: int = HEIGHT) -> Image.Image:
    """A picture that shows a number."""
    blocks = np.array([number >> bit & 1 for bit in range(BITS)], np.uint8).reshape(DOWN, ACROSS)
    return Image.fromarray(blocks * 200 + 20).resize((width, height), Image.Resampling.NEAREST).convert("RGB")


def grainy(count: int) -> list[Image.Image]:
    """Pictures that show their numbers through noise: every frame of a video takes its share of the file."""
    grain = np.random.default_rng(0).integers(0, 60, (count, HEIGHT, WIDTH, 3), np.uint8)
    return [Image.fromarray(np.asarray(drawn(number)) // 4 * 3 + grain[number]) for number in range(count)]


def number_in(picture: Image.Image | Path) -> int:
    """The number that a picture shows."""
    image = Image.open(picture) if isinstance(picture, Path) else picture
    blocks = np.asarray(image.convert("L").resize((ACROSS * 8, DOWN * 8), Image.Resampling.BOX))
    return sum(
        1 << bit for bit in range(BITS) if blocks[8 * (bit // ACROSS) + 4, 8 * (bit % ACROSS) + 4] > 128
    )


def make_video(
    path: Path,
    frames: int | Sequence[Image.Image] = 90,
    codec: str = "libx264",
    rate: Fraction | int = 30,
    stamps: Sequence[int] | None = None,
    base: Fraction | None = None,
    options: dict[str, str] | None = None,
    container: dict[str, str] | None = None,
    context: dict[str, object] | None = None,
) -> Path:
    """Writes a video.

    Args:
        path: its suffix decides on the container.
        frames: pictures, or how many that show their number.
        codec: of the pictures.
        rate: nominal, in Hz.
        stamps: time stamp of each frame in `base`; by default 0, 1, 2 ... at the rate.
        base: seconds in a tick of the stamps.
        options: of the encoder.
        container: options of the container.
        context: attributes of the encoder.
    """
    pictures = [drawn(number) for number in range(frames)] if isinstance(frames, int) else frames
    ticks = base or 1 / Fraction(rate)
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=container or {}) as file:
        stream = file.add_stream(
            codec, rate=Fraction(rate), options=options or (VP9 if "vp9" in codec else {})
        )
        stream.width, stream.height = pictures[0].size
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for name, value in {"time_base": ticks, **(context or {})}.items():
            setattr(stream.codec_context, name, value)
        for index, picture in enumerate(pictures):
            frame = av.VideoFrame.from_image(picture)
            frame.pts, frame.time_base = (stamps[index] if stamps else index), ticks
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


def critical(pre_frame: int, pnr_frame: int) -> dict[str, int | None]:
    """Critical frames as the annotators gave them; contact is often absent."""
    earlier = {f"pre_{back}": pre_frame - back for back in (45, 30, 15)}
    return {**earlier, "pre_frame": pre_frame, "contact_frame": None, "pnr_frame": pnr_frame,
            "post_frame": pnr_frame + 6}  # fmt: skip


def action(number: int, start: int = 0, **changes: Any) -> dict[str, Any]:
    """A narrated action with every field of v2; `start` is where its clip starts in the video."""
    frames = critical(45 + number, 60 + number)
    moved = {name: value if value is None else value + start for name, value in frames.items()}
    box = {"x": 10.0, "y": 20.0, "width": 16.0, "height": 12.0}
    boxes = [
        {"object_type": kind, "structured_noun": noun, "instance_number": 1, "bbox": box}
        for kind, noun in (("left_hand", None), ("object_of_change", "carrot"), ("tool", "knife"))
    ]
    made = {
        "warnings": [], "uid": f"uid-{number}", "start_sec": 1.0 + number, "end_sec": 9.0 + number,
        "start_frame": 30 + start, "end_frame": 270 + start, "is_valid_action": True, "is_partial": False,
        "clip_start_sec": 1.0, "clip_end_sec": 9.0, "clip_start_frame": 30, "clip_end_frame": 270,
        "narration_timestamp_sec": 2.0, "clip_narration_timestamp_sec": 2.0,
        "narration_text": f"#C C cuts the carrot {number}", "narration_annotation_uid": f"narration-{number}",
        "structured_verb": "cut_(trim,_slice,_chop)", "freeform_verb": None, "state_transition": None,
        "critical_frames": moved, "clip_critical_frames": frames,
        "frames": [{"frame_number": moved[name], "frame_type": name, "boxes": boxes}
                   for name in ("pre_15", "pnr_frame")],
        "is_rejected": False, "is_invalid_annotation": False, "reject_reason": None, "stage": "stage_2",
    }  # fmt: skip
    return made | changes


@dataclass
class Ego4D:
    """A folder of Ego4D: annotations, clips, full videos."""

    root: Path
    videos: list[dict[str, Any]] = field(default_factory=list)
    splits: dict[str, list[str]] = field(default_factory=lambda: {"train": [], "val": []})

    @property
    def annotations(self) -> Path:
        return self.root / "v2" / "annotations"

    @property
    def clips(self) -> Path:
        return self.root / "v2" / "clips"

    @property
    def full(self) -> Path:
        return self.root / "v2" / "full_scale"

    def add(self, name: str, split: str | None, actions: Iterable[dict[str, Any]], **changes: Any) -> None:
        """Adds a video of one clip, `video-NAME` and `clip-NAME`."""
        interval = {
            "clip_id": "7", "clip_uid": f"clip-{name}", "start_sec": 0.0, "end_sec": 300.0, "start_frame": 0,
            "end_frame": 9000, "clip_parent_start_sec": 0.0, "clip_parent_end_sec": 308.0,
            "clip_parent_start_frame": 0, "clip_parent_end_frame": 9240, "redacted": False,
            "narrated_actions": list(actions),
        }  # fmt: skip
        facts = {
            "video_start_pts": 0, "video_base_numerator": 1, "video_base_denominator": 15360,
            "duration_sec": 308.0, "num_frames": 9240, "fps": 30.0, "width": 160, "height": 96,
            "rotation": None,
        }  # fmt: skip
        self.videos.append({"video_uid": f"video-{name}", "video_metadata": facts,
                            "annotated_intervals": [interval | changes]})  # fmt: skip
        if split:
            self.splits[split].append(changes.get("clip_uid") or f"clip-{name}")

    def write(self) -> None:
        """Writes the annotation files."""
        self.annotations.mkdir(parents=True, exist_ok=True)
        top = {
            "version": "2.0",
            "date": "230208",
            "description": "FHO",
            "metadata": "s3://",
            "videos": self.videos,
        }
        (self.annotations / "fho_main.json").write_text(json.dumps(top))
        for split, clips in self.splits.items():
            rows = [{"video_uid": "?", "clip_uid": uid, "clip_id": 7, "action_idx": 0} for uid in clips * 2]
            content = json.dumps({"version": "2.0", "split": split, "clips": rows})
            for benchmark in ("fho_lta", "fho_oscc-pnr"):
                (self.annotations / f"{benchmark}_{split}.json").write_text(content)

    def words(self, out: Path, *more: str) -> list[str]:
        """Arguments that prepare it from its clips."""
        return ["--annotations", str(self.annotations), "--clips", str(self.clips), "--out", str(out),
                "--size", "48", "--workers", "1", *more]  # fmt: skip


def film_toy_world(root: Path) -> tuple[Layout, Layout]:
    """A toy world, and what is prepared from films of it: a clip shows the frame before, then the target."""
    write_world(root / "toy", 3, 2, TOY_SIZE[1], workers=1)
    toy, source = Layout(root / "toy", "ego4d"), Ego4D(root / "ego4d")
    for split in ("train", "val"):
        for item in Annotations.read(toy.egogen / f"ego4d_{split}.json"):
            names = item.action.image_0, item.action.image_1
            frames = [read_frame(toy.egogen / "ego4d.fho" / split / name) for name in names]
            before, after = (frame.resize(TOY_SIZE) for frame in frames)
            make_video(source.clips / f"{item.clip}.mp4", [before] * 60 + [after] * 10, options={"crf": "6"})
            source.add(item.clip, split, [action(0, narration_text=item.action.action, frames=None)],
                       clip_uid=item.clip)  # fmt: skip
    source.write()
    main(["ego4d", *source.words(root / "made", "--size", str(TOY_SIZE[1]))])
    return toy, Layout(root / "made", "ego4d")
