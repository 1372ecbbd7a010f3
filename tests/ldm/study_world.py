"""A small study: flat pictures whose colours tell the systems, so that a test knows what it is shown."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image

from egogen.annotations import Annotations
from ldm.study.survey import Survey, make_survey

COLOURS = {"lego": "red", "copy": "green", "ip2p": "blue"}
SOURCE = "white"


def write_study(root: Path, count: int = 5) -> None:
    """Writes annotations, frames before the actions, and a run for each system."""
    raw = {
        f"clip{index}": {
            "0": {
                "image_0": f"clip{index}/0/a.png",
                "image_1": f"clip{index}/0/b.png",
                "action": f"#C C opens box {index}",
            }
        }
        for index in range(count)
    }
    root.mkdir(parents=True, exist_ok=True)
    (root / "val.json").write_text(json.dumps(raw))
    for index in range(count):
        places = {root / "val" / f"clip{index}/0/a.png": SOURCE}
        places |= {root / name / f"images/clip{index}/0/b.png": colour for name, colour in COLOURS.items()}
        for path, colour in places.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (24, 16), colour).save(path)


def survey(root: Path, count: int = 4, seed: int = 0) -> Survey:
    """The survey of a study that is written."""
    runs = {name: root / name for name in COLOURS}
    return make_survey(runs, Annotations.read(root / "val.json"), root / "val", count, seed)


def words(root: Path, *more: str) -> list[str]:
    """The command's words."""
    runs = [str(root / name) for name in COLOURS]
    where = [
        "--annotations",
        str(root / "val.json"),
        "--frames",
        str(root / "val"),
        "--out",
        str(root / "out"),
    ]
    return [*runs, *where, *more]
