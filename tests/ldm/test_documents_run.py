"""Commands on pages that are marked (```bash run) are run, at toy size, in one folder, page after page.

The witness of each is its exit code, and at the end what the pages say that they leave.
"""

from __future__ import annotations

import csv
import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import pytest

from egogen.annotations import Annotations
from egogen.layout import DESCRIPTION_KEY, Layout
from tests.forked import Forked, command
from tests.workbench import ROOT

PAGES = ("docs/first-hour.md", "docs/photos.md", "docs/own-data.md")  # in the order in which they are read
VLLM = ROOT / ".venvs/vllm/bin/python"
USED = ("assets", "configs", "main.py")
# Commands of the other environment that follow each other, in one process.
IN_ORDER = """
import json, runpy, sys
for module, *words in json.loads(sys.argv[1]):
    sys.argv[:] = [module, *words]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
"""


class Line(NamedTuple):
    """A command of a page: the environment it runs in, and its module or file with its words."""

    environment: str
    words: tuple[str, ...]


def marked(page: str) -> Iterator[Line]:
    """The lines of a page's marked blocks."""
    for block in re.findall(r"^```bash run\n(.*?)^```", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            _, script, environment, _, *words = shlex.split(line, comments=True)
            assert script == "scripts/run.sh", line
            yield Line(environment, tuple(words[1:] if words[0] == "-m" else words))


def in_order(lines: list[list[str]]) -> None:
    """Runs commands one after the other."""
    for words in lines:
        command(words[0], words[1:])


def own_pairs(world: Path, folder: Path) -> None:
    """A table of pairs as somebody has one, of a toy world's frames."""
    data = Layout(world, "ego4d")
    folder.mkdir()
    rows = [("image_0", "image_1", "action", "clip", "split")]
    for split in ("train", "val"):
        for item in Annotations.read(data.annotations(split)):  # type: ignore[arg-type]
            names = [f"{item.clip}_before.jpg", f"{item.clip}_after.jpg"]
            for name, frame in zip(names, (item.action.image_0, item.action.image_1), strict=True):
                shutil.copy(data.frames(split) / frame, folder / name)  # type: ignore[arg-type]
            rows.append((*names, item.action.action.removeprefix("#C C "), item.clip, split))
    with (folder / "pairs.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def run_all(environment: str, lines: list[list[str]], folder: Path) -> None:
    """Runs commands of one environment, one after the other in one process."""
    if environment == "ldm":
        work = Forked(in_order, lines, log=folder / "log", folder=folder)
        assert work.wait(400) == 0, work.printed
    else:
        words = [VLLM, "-W", "ignore", "-c", IN_ORDER, json.dumps(lines)]
        work = subprocess.run(words, cwd=folder, text=True, capture_output=True, check=False)
        assert work.returncode == 0, work.stderr


@pytest.mark.slow
@pytest.mark.skipif(not VLLM.is_file(), reason="no environment of stage 1 (bash scripts/setup.sh vllm)")
def test_marked_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATA_ROOT", "RUN_ROOT", "WEIGHTS_ROOT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for name in USED:
        (tmp_path / name).symlink_to(ROOT / name)
    for page in PAGES:
        if page == "docs/own-data.md":
            own_pairs(tmp_path / "runs/first", tmp_path / "pairs")
        for environment, lines in groupby(marked(page), key=lambda line: line.environment):
            run_all(environment, [list(line.words) for line in lines], tmp_path)
    left = ("first/examples.html", "first/edited.png", "report/index.html", "report/metrics.json")
    assert all((tmp_path / "runs" / name).stat().st_size > 300 for name in left)
    described = Annotations.read(tmp_path / "runs/annotations/epickitchen_val.json")
    assert all("hand" in (item.action.text(DESCRIPTION_KEY) or "") for item in described)
    metric = json.loads((tmp_path / "runs/samples/copy/metric/metric.json").read_text())
    assert metric["psnr"] > 10


def test_each_page_with_a_mark_is_run() -> None:
    pages = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
    found = {f"{page.relative_to(ROOT)}" for page in pages if "\n```bash run\n" in page.read_text()}
    assert found == set(PAGES)
