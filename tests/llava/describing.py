"""What tests of describing share."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from egogen.files import write_json

WORDS = (
    "picks up the cup",
    "opens the box",
    "cuts the apple with the knife",
    "closes the pan",
    "pushes the cup",
)


def make_split(root: Path) -> Path:
    """Five actions in three clips, two of them with unusual file names."""
    names = ["a/0/x.jpg", "a/1/x.jpg", "b_jpg/0/x.jpeg", "c/0/x.png", "c/1/x.JPG"]
    rng = np.random.default_rng(0)
    raw: dict[str, Any] = {}
    for index, (name, words) in enumerate(zip(names, WORDS, strict=True)):
        path = root / "frames" / name
        path.parent.mkdir(parents=True)
        image = Image.fromarray(rng.integers(0, 255, (40, 70, 3), dtype=np.uint8))
        image.save(path, "JPEG" if "p" in path.suffix and path.suffix != ".png" else None)
        shutil.copy(path, path.with_name(f"after_{path.name}"))
        entry = {"image_0": name, "image_1": f"{path.parent.relative_to(root / 'frames')}/after_{path.name}"}
        raw.setdefault(name.split("/")[0], {})[str(index)] = {**entry, "action": f"#C C {words}"}
    write_json(root / "ego4d_val.json", raw)
    return root


def flags(split: Path, tiny: Path, out: Path, *more: str) -> list[str]:
    """The words of `llava.describe`; results go below `out`."""
    return [
        *("--model-path", str(tiny), "--image-dir", str(split / "frames")),
        *("--action-label", str(split / "ego4d_val.json"), "--save-path", str(out / "texts")),
        *("--save-image-feature-path", str(out / "image"), "--save-text-feature-path", str(out / "text")),
        *("--max-new-tokens", "7", "--device", "cpu", *more),
    ]


def features_of(folder: Path) -> dict[Path, np.ndarray]:
    """The features below a folder, by their paths in it."""
    return {path.relative_to(folder): np.load(path) for path in sorted(folder.rglob("*.npy"))}
