"""Stands in for `python -m llava.serve`: the same lines, features made of the words, no networks.

It dies of an action with "die", writes slowly of one with "slow", and refuses one with "refuse". What it is
asked is noted in the file that it is started with.
"""

import json
import os
import sys
import threading
import time
import zlib
from pathlib import Path
from queue import SimpleQueue

import numpy as np

WIDTH, WORDS = 24, "the right hand reaches out and does it: {}"
waiting: SimpleQueue = SimpleQueue()
cancelled: set[str] = set()


def read() -> None:
    for line in sys.stdin:
        said = json.loads(line)
        cancelled.add(said["id"]) if "cancel" in said else waiting.put(said)
    os._exit(0)


def tell(**said: object) -> None:
    sys.stdout.write(json.dumps(said) + "\n")
    sys.stdout.flush()


def features(text: str, folder: Path) -> None:
    rng = np.random.default_rng(zlib.crc32(text.encode()))
    folder.mkdir(parents=True)
    np.save(folder / "image.npy", rng.normal(size=(256, WIDTH)).astype(np.float16))
    np.save(folder / "text.npy", rng.normal(size=(9, WIDTH)).astype(np.float16))


def respond(asked: dict) -> None:
    name, action = asked["id"], asked["action"]
    if "die" in action:
        os._exit(9)
    if "refuse" in action:
        return tell(id=name, error=f"action {action!r}: it is refused")
    text = asked["text"] or WORDS.format(action)
    for count in range(1, len(text.split()) + 1):
        if name in cancelled:
            return tell(id=name, cancelled=True)
        if asked["text"] is None:
            tell(id=name, text=" ".join(text.split()[:count]))
            time.sleep(0.3 if "slow" in action else 0)
    if asked["folder"]:
        features(text, Path(asked["folder"]))
    return tell(id=name, done=True, text=text)


if __name__ == "__main__":
    notes = Path(sys.argv[1])
    with notes.open("a") as file:
        file.write(f"started {os.getpid()}\n")
    threading.Thread(target=read, daemon=True).start()
    tell(ready=True)
    while True:
        asked = waiting.get()
        with notes.open("a") as file:
            file.write(json.dumps(asked) + "\n")
        respond(asked)
