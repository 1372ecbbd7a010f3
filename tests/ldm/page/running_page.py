"""A page with tiny networks on a free port, and a person who asks it over HTTP."""

from __future__ import annotations

import io
import json
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import uvicorn
from PIL import Image

from ldm.page.choosing import Chosen
from ldm.page.desk import Desk
from ldm.page.engine import load_engine
from ldm.page.page_options import PageOptions
from ldm.page.running import lay_out, listen
from ldm.page.server import make_app
from ldm.page.stage_one_worker import StageOneWorker

STAND_IN = Path(__file__).with_name("stand_in.py")


@dataclass
class Page:
    """A page that runs."""

    url: str
    desk: Desk
    notes: Path

    def ask(self, path: str, body: object = None, method: str | None = None, **headers: str) -> Any:
        """JSON in, JSON out; the status code stands under `code`."""
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        asked = urllib.request.Request(self.url + path, data, headers, method=method)
        try:
            with urllib.request.urlopen(asked, timeout=120) as answer:
                return {"code": answer.status, **json.loads(answer.read())}
        except urllib.error.HTTPError as error:
            return {"code": error.code, **json.loads(error.read() or b"{}")}

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(self.url + path, timeout=60) as answer:
            found: bytes = answer.read()
            return found

    def pixels(self, path: str) -> np.ndarray:
        return np.asarray(Image.open(io.BytesIO(self.get(path))), int)

    def events(self, path: str, body: object) -> Iterator[dict[str, Any]]:
        """Events as they come."""
        asked = urllib.request.Request(
            self.url + path, json.dumps(body).encode(), {"Accept": "application/x-ndjson"}
        )
        with urllib.request.urlopen(asked, timeout=120) as answer:
            for line in answer:
                yield json.loads(line)

    def draw(self, photo: str, *frames: dict[str, Any]) -> Any:
        return self.ask("/api/draw", {"photo": photo, "frames": list(frames)})


def png(width: int = 90, height: int = 48, seed: int = 0, kind: str = "PNG", **more: Any) -> bytes:
    """A photo's file."""
    made = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(made, kind, **more)
    return made.getvalue()


@contextmanager
def running(folder: Path, ckpt: Path, *, described: bool = True, **options: Any) -> Iterator[Page]:
    """Starts a page, and ends it."""
    vllm = folder / "vllm"
    vllm.mkdir(parents=True)
    made = PageOptions(
        ckpt=ckpt, port=0, device="cpu", vllm=vllm if described else None,
        vllm_python=Path(sys.executable), **options,
    )  # fmt: skip
    notes = folder / "asked.txt"
    worker = StageOneWorker([sys.executable, str(STAND_IN), str(notes)]) if described else None
    engine = load_engine(made, Chosen(ckpt, made.vllm))
    desk = Desk(engine, worker, folder / "own")
    lay_out(desk, engine)
    listening = listen(made)
    config = uvicorn.Config(
        make_app(desk), log_config=None, lifespan="off", timeout_graceful_shutdown=1, access_log=False
    )
    server = uvicorn.Server(config)
    thread = Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    try:
        yield Page(f"http://127.0.0.1:{listening.getsockname()[1]}", desk, notes)
    finally:
        server.should_exit = True
        thread.join(20)
        desk.close()
        listening.close()


def until(condition: Any, seconds: float = 20.0) -> None:
    """Waits until something holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came to be"
        time.sleep(0.02)
