"""The web page under load: many requests, some at a time; is any lost or swapped, and does memory stay?

    python benchmarks/page.py                          # 200 requests, 8 at a time: minutes on a CPU
    python benchmarks/page.py --requests 2000 --at-once 32 --device cuda

It starts the page as people do, with a small network of chance; every request has its own photo and seed. At
the end each frame is compared with what `ldm.edit` draws for them.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from measuring import OnDevice, SpeedTable, run
from PIL import Image

from egogen.cli import flag
from ldm.checkpoints.source import load_parts
from ldm.checkpoints.writing import published_state, write
from ldm.config.sections import SamplingConfig
from ldm.networks.architecture import build
from ldm.networks.devices import find_device
from ldm.networks.shapes import Architecture, TextShape, UNetShape, VAEShape
from ldm.pipeline import LegoPipeline
from ldm.sampling.editing import Condition, draw

SHAPE = Architecture(
    unet=UNetShape(channels=[32, 64], attention=[False, True], blocks=1, groups=8),
    vae=VAEShape(channels=[16, 32], blocks=1, groups=8),
    text=TextShape(width=32, layers=1, heads=2, intermediate=32),
)
SIDE, STEPS, SCALES = 32, 4, (3.0, 1.5)
WARM = 20  # requests after which memory is looked at first


@dataclass(frozen=True)
class Load(OnDevice):
    """The flags."""

    requests: int = flag("requests in all", type=int, default=200)
    at_once: int = flag("that are open at a time", type=int, default=8)


class Served(NamedTuple):
    """What one request came to."""

    pixels: np.ndarray
    seconds: float
    memory: float  # of the page, in MB, when it had been answered


def measure(options: Load, root: Path) -> dict[str, object]:
    """Requests a second, waits, memory, and how many frames are not what the command draws."""
    ckpt = root / "random.ckpt"
    torch.manual_seed(0)
    write(ckpt, published_state(build(SHAPE, conditioner=False), SHAPE), SHAPE, resolution=SIDE)
    began = time.monotonic()
    with page(ckpt, options.device) as (url, process):
        ask = partial(request, url, process)
        loaded = time.monotonic()
        with ThreadPoolExecutor(options.at_once) as people:
            served = list(people.map(ask, range(options.requests)))
        seconds = time.monotonic() - loaded
    wrong = differing(ckpt, options.device, [each.pixels for each in served])
    waits = sorted(each.seconds for each in served)
    warm = served[min(WARM, len(served) - 1)].memory
    table = SpeedTable()
    table.add(
        requests=len(served), at_once=options.at_once, lost=options.requests - len(served),
        not_as_the_command=wrong, requests_per_second=len(served) / seconds, start_seconds=loaded - began,
        median_seconds=waits[len(waits) // 2], longest_seconds=waits[-1], mb_warm=warm,
        mb_end=served[-1].memory, mb_most=max(each.memory for each in served),
    )  # fmt: skip
    return {"page": table}


@contextmanager
def page(ckpt: Path, device: str) -> Iterator[tuple[str, int]]:
    """A page that runs: its address, and its process."""
    command = [sys.executable, "-m", "ldm.page", "--ckpt", str(ckpt), "--port", "0", "--device", device]
    started = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603 - our own command
    try:
        assert started.stdout is not None
        yield started.stdout.readline().split()[2], started.pid
    finally:
        started.terminate()
        started.wait()


def photo(number: int) -> Image.Image:
    """A photo like no other."""
    return Image.fromarray(np.random.default_rng(number).integers(0, 255, (48, 64, 3), np.uint8))


def post(url: str, body: bytes) -> bytes:
    """What a request is answered."""
    with urllib.request.urlopen(url, body, timeout=600) as answer:  # noqa: S310 - our own page
        found: bytes = answer.read()
        return found


def request(url: str, process: int, number: int) -> Served:
    """Uploads a photo, has a frame drawn, and fetches it."""
    began, content = time.monotonic(), io.BytesIO()
    photo(number).save(content, "PNG")
    name = json.loads(post(f"{url}/api/photos", content.getvalue()))["photo"]
    frame = {
        "action": f"open box {number}", "seed": number, "steps": STEPS, "scheduler": "unipc",
        "cfg_text": SCALES[0], "cfg_image": SCALES[1],
    }  # fmt: skip
    asked = json.dumps({"photo": name, "frames": [frame]}).encode()
    (made,) = json.loads(post(f"{url}/api/draw", asked))["frames"]
    with urllib.request.urlopen(url + made["picture"]) as answer:  # noqa: S310 - our own page
        pixels = np.asarray(Image.open(answer), int)
    return Served(pixels, time.monotonic() - began, memory(process))


def memory(process: int) -> float:
    """MB that a process holds; not a number where the system does not say."""
    status = Path(f"/proc/{process}/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS")), float("nan"))


def differing(ckpt: Path, device: str, frames: Sequence[np.ndarray]) -> int:
    """How many frames are further from what the command's function draws than batches round (1 of 255)."""
    parts = load_parts(ckpt)
    for part in parts:
        if part is not None:
            part.to(find_device(device))
    pipeline = LegoPipeline.from_parts(parts, "unipc")
    sampling = SamplingConfig(
        scheduler="unipc", steps=STEPS, scales_txt=[SCALES[0]], scales_img=[SCALES[1]],
        interval_txt=[0.28, 5.42], interval_img=[0.28, 5.42],
    )  # fmt: skip
    most = 0 if device == "cpu" else 1
    wrong = 0
    with pipeline.quiet():
        for number, frame in enumerate(frames):
            action = Condition(f"open box {number}")
            drawn = draw(pipeline, photo(number), action, SIDE, sampling, number)
            wrong += int(abs(np.asarray(drawn, int) - frame).max() > most)
    return wrong


if __name__ == "__main__":
    run(measure, Load, __doc__)
