"""A little work for engines that run shards: the toy world's val split, described and drawn by what ships."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from egogen.annotations import Annotations
from egogen.layout import Layout
from egogen.shipped import TOY_START
from egogen.toy.world import write_world
from tests.workbench import ROOT

PAIRS = 8
START = TOY_START.resolve()


@dataclass(frozen=True)
class ToyWork:
    """Commands of both stages on a toy world below one folder; items one by one: bytes are compared.

    Args:
        root: of everything.
    """

    root: Path

    @property
    def runs(self) -> Path:
        return self.root / "runs" / "toy"

    @property
    def environment(self) -> dict[str, str]:
        here = {"DATA_ROOT": f"{self.runs / 'data'}", "RUN_ROOT": f"{self.root / 'runs'}"}
        return {**os.environ, **here, "OMP_NUM_THREADS": "1", "TOY_SIZE": "64", "CUDA_VISIBLE_DEVICES": ""}

    def make(self) -> ToyWork:
        write_world(self.runs / "data", 1, PAIRS, 64, 0)
        return self

    def run(self, *command: str, **variables: str) -> None:
        """Runs a command of the checkout to its good end."""
        subprocess.run(command, cwd=ROOT, env={**self.environment, **variables}, check=True)

    def describe(self, out: Path) -> list[str]:
        """The command of stage 1 that writes below a folder."""
        layout = Layout(self.runs / "data", "ego4d")
        return [
            "python", "-m", "llava.describe", "--model-path", f"{START / 'vllm'}",
            "--image-dir", f"{layout.frames('val')}", "--action-label", f"{layout.annotations('val')}",
            "--save-path", f"{out / 'texts'}", "--save-image-feature-path", f"{out / 'llava_image'}",
            "--save-text-feature-path", f"{out / 'llava_text'}", "--batch-size", "1", "--device", "cpu",
        ]  # fmt: skip

    def draw(self, out: Path) -> list[str]:
        """The command of stage 2 that writes to a folder, without stage 1."""
        return [
            "python", "-m", "ldm.sample", "--config", "configs/generate_toy.yaml", "--batch-size", "1",
            "--ckpt", f"{START / 'lego.safetensors'}", "--out", f"{out}", "--device", "cpu",
            f"data.val_annotations={Layout(self.runs / 'data', 'ego4d').annotations('val')}",
            "data.text_key=action", "model.vllm_features=false",
        ]  # fmt: skip

    def measure(self, drawn: Path) -> list[str]:
        """The command that measures frames against their targets."""
        layout = Layout(self.runs / "data", "ego4d")
        return [
            "python", "-m", "ldm.evaluate", "--dataset", "ego4d", "--gen_path", f"{drawn}", "--device", "cpu",
            "--metrics", "psnr,ssim", "--gt_path", f"{layout.metric_targets}", "--published", "none",
            "--edit_file", f"{layout.annotations('val')}", "--per-sample", f"{drawn / 'rows.csv'}",
        ]  # fmt: skip

    def prepare(self, out: Path) -> list[str]:
        """The command that makes a data set of the split's own images."""
        layout, table = Layout(self.runs / "data", "ego4d"), self.root / "pairs.csv"
        frames = layout.frames("val")
        rows = [
            f"{frames / item.action.image_0},{frames / item.action.image_1},{item.action.action}"
            for item in Annotations.read(layout.annotations("val"))
        ]
        table.write_text("\n".join(["image_0,image_1,action", *rows, ""]))
        return [
            "python", "-m", "egogen.prepare", "folder", "--pairs", f"{table}", "--out", f"{out}",
            "--split", "val", "--size", "64",
        ]  # fmt: skip


def files(folder: Path, *kinds: str) -> dict[str, bytes]:
    """What is in files of some kinds below a folder, by their paths in it."""
    found = (path for kind in kinds for path in folder.rglob(f"*.{kind}") if ".shards" not in path.parts)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def wait_until(is_so: Callable[[], object], what: str, seconds: float = 300) -> None:
    """Looks until something is so."""
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, f"{what}: not within {seconds:g} s"
        time.sleep(0.02)
