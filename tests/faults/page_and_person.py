"""The page, and a person in a thread who asks it for a frame, keeps that, and ends the page.

`page_and_person.py CKPT FOLDER`: the page's own files lie in `FOLDER/tmp`, the person's in `FOLDER/kept`.
"""

import io
import json
import os
import signal
import socket
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
from PIL import Image

from egogen.errors import UserError
from egogen.files import atomic_open, clean_parts
from ldm.page.__main__ import main
from ldm.page.guard import ENDS

WANTED = {"action": "open it", "seed": 5, "steps": 2, "method": "LEGO", "description": "the hand opens it"}


def photo() -> bytes:
    """What is uploaded."""
    made = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (48, 90, 3), np.uint8)
    Image.fromarray(pixels).save(made, "PNG")
    return made.getvalue()


def answer(url: str, body: bytes | None = None) -> bytes:
    """Asks until the page is there."""
    end = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, body), timeout=60) as got:
                return bytes(got.read())
        except urllib.error.HTTPError as error:
            raise UserError(f"{url}: {error.read().decode()}") from None
        except (urllib.error.URLError, OSError):
            if time.monotonic() > end:
                raise
            time.sleep(0.02)


def ask(url: str, kept: Path, told: list[str]) -> None:
    """Uploads, draws, keeps; then the page is no longer needed."""
    try:
        name = json.loads(answer(f"{url}/api/photos", photo()))["photo"]
        for seed in (5, 6):
            asked = json.dumps({"photo": name, "frames": [{**WANTED, "seed": seed}]}).encode()
            (frame,) = json.loads(answer(f"{url}/api/draw", asked))["frames"]
            if "picture" not in frame:
                raise UserError(f"no frame: {frame}")
            with atomic_open(kept / f"frame_{seed}.png") as file:
                file.write(answer(url + frame["picture"]))
    except (UserError, OSError, ValueError, KeyError) as error:
        told.append(f"{error}")
    finally:
        os.kill(os.getpid(), signal.SIGTERM)


def page_and_person(ckpt: str, folder: Path) -> None:
    """Runs both.

    Raises:
        UserError: what the person was told.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    temporary, told = folder / "tmp", list[str]()
    temporary.mkdir(exist_ok=True)
    clean_parts(folder / "kept")  # what the person's last try left
    tempfile.tempdir = f"{temporary}"
    url = f"http://127.0.0.1:{port}"
    threading.Thread(target=ask, args=(url, folder / "kept", told), daemon=True).start()
    try:
        main(["--ckpt", ckpt, "--port", f"{port}", "--device", "cpu"])
    except SystemExit as end:
        if end.code != 128 + signal.SIGTERM:
            raise
    if told and ENDS not in told[0]:
        raise UserError(told[0])


if __name__ == "__main__":
    page_and_person(sys.argv[1], Path(sys.argv[2]))
