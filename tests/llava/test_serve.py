"""The worker of the page: what it writes and keeps is what `llava.describe` does; it cancels, and goes on."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
from PIL import Image

from egogen.files import write_json
from llava.describe import main as describe_split
from llava.describing.decode import Sampling
from llava.describing.serving import serve
from tests.llava.conftest import Loaded
from tests.workbench import ROOT

ENDS = ("done", "error", "cancelled")


class Out(io.StringIO):
    """Notes when so many questions have been answered."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.left, self.all_answered = count, Event()

    def write(self, line: str) -> int:
        self.left -= any(f'"{end}": ' in line for end in ENDS)
        if self.left == 0:
            self.all_answered.set()
        return super().write(line)


def from_page(lines: tuple[str, ...], out: Out) -> Iterator[str]:
    """Lines of a page, which stays until they are answered."""
    yield from lines
    assert out.all_answered.wait(60)


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(3)
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    Image.fromarray(rng.integers(0, 255, (40, 70, 3), dtype=np.uint8)).save(path)
    return path


def line(photo: Path, name: str = "a", **more: object) -> str:
    question = {"id": name, "photo": f"{photo}", "action": "open it", "seed": 5, "item": ["photo", "0"]}
    return json.dumps({**question, **more})


def answers(loaded: Loaded, count: int, *lines: str) -> list[dict[str, Any]]:
    out = Out(count)
    serve(loaded, from_page(lines, out), out, Sampling(max_new_tokens=7))
    return [json.loads(said) for said in out.getvalue().splitlines()]


@pytest.mark.parametrize("text", [None, "The left hand opens it."])
def test_text_and_features_are_those_of_the_command(
    text: str | None, loaded: Loaded, tiny: Path, photo: Path, tmp_path: Path
) -> None:
    ready, *written, done = answers(loaded, 1, line(photo, text=text, folder=f"{tmp_path / 'own'}"))
    assert ready == {"ready": True}
    assert done["done"]
    write_json(
        tmp_path / "actions.json",
        {"photo": {"0": {"image_0": "photo.png", "image_1": "photo.png", "action": "open it"}}},
    )
    flags = [
        "--model-path", f"{tiny}", "--image-dir", f"{photo.parent}", "--action-label",
        f"{tmp_path / 'actions.json'}", "--dataset", "epickitchen", "--save-path", f"{tmp_path / 'texts'}",
        "--save-image-feature-path", f"{tmp_path / 'image'}", "--save-text-feature-path",
        f"{tmp_path / 'text'}", "--seed", "5", "--device", "cpu", "--max-new-tokens", "7",
    ]  # fmt: skip
    if text is not None:
        write_json(tmp_path / "given.json", {"photo": {"0": text}})
        flags += ["--texts", f"{tmp_path / 'given.json'}"]
    describe_split(flags)
    (said,) = (tmp_path / "texts").glob("chunk_*.json")
    assert done["text"] == json.loads(said.read_text())["photo"]["0"]["description"]
    for kind in ("image", "text"):
        expected = np.load(tmp_path / kind / "photo.npy")
        assert np.array_equal(np.load(tmp_path / "own" / f"{kind}.npy"), expected)
    if text is None:
        assert len(written) == len(np.load(tmp_path / "own/text.npy"))
        assert written[-1]["text"] == done["text"]
    else:
        assert not written


def test_ones_mistake_is_its_own(loaded: Loaded, photo: Path) -> None:
    said = answers(
        loaded,
        5,
        line(photo, "a", action="</s>"),
        "{no JSON",
        line(photo, "b", sed=1),
        line(photo.parent / "none.png", "c"),
        line(photo, "d", text=" "),
        line(photo, "e", action="open it " * 3000),
        line(photo, "f", text="it opens"),
    )
    by_name = {each["id"]: each for each in said[1:]}
    assert "</s>" in by_name["a"]["error"]
    assert "none.png: no such frame" in by_name["c"]["error"]
    assert "it is blank" in by_name["d"]["error"]
    assert "tokens, the model has places for" in by_name["e"]["error"]
    assert by_name["f"] == {"id": "f", "done": True, "text": "it opens"}
    assert "b" not in by_name


def test_cancelling_and_the_end_of_the_page_stop_the_writing(loaded: Loaded, photo: Path) -> None:
    said = answers(loaded, 2, json.dumps({"id": "a", "cancel": True}), line(photo, "a"), line(photo, "b"))
    assert [each["id"] for each in said if "cancelled" in each] == ["a"]
    assert said[-1]["done"]
    out = io.StringIO()
    serve(loaded, iter([line(photo, "a"), line(photo, "b")]), out, Sampling(max_new_tokens=1024))
    assert "done" not in out.getvalue()


@pytest.mark.slow
def test_the_command_says_answers_alone_on_stdout(tiny: Path) -> None:
    command = [sys.executable, "-m", "llava.serve", "--model-path", f"{tiny}", "--device", "cpu"]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": f"{ROOT}"}, text=True, capture_output=True,
        input="", check=True,
    )  # fmt: skip
    assert done.stdout == '{"ready": true}\n'
