"""The Python blocks of `docs/python.md` by the stage whose title they stand under, and what they read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from egogen.toy.actions import imagine
from egogen.toy.render import Renderer
from tests.workbench import ROOT

MOST_LINES = 10


def blocks(stage: int) -> list[str]:
    """The blocks of a stage, in their order."""
    text = (ROOT / "docs" / "python.md").read_text()
    part = re.split(r"^## Stage \d$", text, flags=re.MULTILINE)[stage]
    return re.findall(r"^```python\n(.*?)^```", part, re.MULTILINE | re.DOTALL)


def write_photos(folder: Path) -> None:
    """A toy scene before and after its action, and another scene."""
    story = imagine(5)
    renderer = Renderer(story.scene, 64)
    renderer.draw(story.before).save(folder / "photo.jpg", quality=95)
    renderer.draw(story.after).save(folder / "target.png")
    other = imagine(6)
    Renderer(other.scene, 64).draw(other.before).save(folder / "other.jpg", quality=95)


def run_blocks(stage: int) -> dict[str, Any]:
    """Runs them in the current folder, each with what those before have made; gives all names."""
    names: dict[str, Any] = {}
    for block in blocks(stage):
        exec(compile(block, "docs/python.md", "exec"), names)
    return names
