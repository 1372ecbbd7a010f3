"""The source archive, and the wheel made from it: whole; its commands run outside the checkout."""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.workbench import ROOT

TREES = ("egogen", "llava", "ldm", "configs", "assets")
# Links in the packages: what they lead to is packed under their names.
LINKS = {"configs/": "egogen/configs/", "assets/toy/": "egogen/toy_assets/"}
# The commands one after the other in one process, since torch takes its time.
COMMANDS = """
import shutil, sys
from pathlib import Path
import egogen, ldm, llava
from egogen import commands
from egogen.layout import Layout

def lego(*words):
    sys.argv = ["lego", *map(str, words)]
    commands.main()

data = Layout(Path("runs/toy/data"), "ego4d")
lego("toy", "--out", "runs/toy/data", "--train", 2, "--val", 2, "--size", 32, "--workers", 1)
from ldm.checkpoints.writing import published_state, write
from ldm.networks.architecture import build
from ldm.networks.shapes import Architecture, TextShape, UNetShape, VAEShape

shape = Architecture(
    UNetShape([32, 64], [False, True], 1, groups=8), VAEShape([16, 32], 1, 8), TextShape(32, 1, 2, 32)
)
write(Path("start.ckpt"), published_state(build(shape, conditioner=False), shape), shape)
lego(
    "sample", "--config", "configs/generate_toy.yaml", "--ckpt", "start.ckpt", "--method", "ip2p",
    "--out", "drawn", "data.text_key=action", f"data.val_annotations={data.annotations('val')}",
    "data.resolution=32", "sampling.steps=1",
)
lego(
    "evaluate", "--dataset", "ego4d", "--gen_path", "drawn", "--gt_path", data.metric_targets,
    "--edit_file", data.annotations("val"), "--metrics", "psnr",
)
shutil.copy(next(data.frames("val").rglob("*.jpg")), "photo.jpg")
exec(sys.stdin.read(), {})
lego("report", "drawn", "--out", "report", "--published", "ego4d")
print("VERSIONS", egogen.__version__, ldm.__version__, llava.__version__, egogen.__file__)
"""


def ten_lines() -> str:
    """What the README says draws a frame from Python."""
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(code.strip().splitlines()) <= 10
    return code


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of both, made of the tracked files alone, since a build leaves some beside its sources."""
    folder = tmp_path_factory.mktemp("built")
    source = folder / "source"
    names = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", *TREES, "pyproject.toml", "README.md", "LICENSE"],
        cwd=ROOT, text=True, capture_output=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    for name in names:
        goal = source / name
        goal.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_symlink():
            goal.symlink_to((ROOT / name).readlink())
        elif (ROOT / name).is_file():
            goal.write_bytes((ROOT / name).read_bytes())
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder / "dist"), str(source)]
    ran = subprocess.run(build, text=True, capture_output=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return folder / "dist"


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (made,) = built.glob("*.whl")
    return made


@pytest.mark.slow
def test_a_registry_would_take_both(built: Path) -> None:
    files = sorted(f"{file}" for file in built.iterdir())
    assert {Path(file).suffix for file in files} == {".whl", ".gz"}
    ran = subprocess.run(
        [sys.executable, "-m", "twine", "check", "--strict", *files],
        text=True,
        capture_output=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout
    assert ran.stdout.count("PASSED") == 2


@pytest.mark.slow
def test_the_wheel_holds_all_that_is_tracked(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    tracked = subprocess.run(
        ["git", "ls-files", *TREES], cwd=ROOT, text=True, capture_output=True, check=True
    ).stdout.splitlines()
    wanted = set(tracked)
    for place, link in LINKS.items():
        wanted = {link + name.removeprefix(place) if name.startswith(place) else name for name in wanted}
    assert wanted - names == {"egogen/configs", "egogen/toy_assets"}
    assert {f"{package}/py.typed" for package in ("egogen", "llava", "ldm")} <= names


@pytest.mark.slow
def test_commands_run_from_the_wheel(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "env")
    python = tmp_path / "env" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-index", "--no-deps"]
    subprocess.run([*pip, str(wheel)], check=True)
    work = tmp_path / "elsewhere"
    work.mkdir()
    lego = [str(tmp_path / "env" / "bin" / "lego")]
    plain = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    listed = subprocess.run(lego, cwd=work, env=plain, text=True, capture_output=True, check=True).stdout
    assert "ldm, in the environment 'ldm':" in listed
    bare = subprocess.run(
        [*lego, "sample", "--method", "copy", "--config", "x"],
        cwd=work, env=plain, text=True, capture_output=True, check=False,
    )  # fmt: skip
    assert bare.returncode == 2
    assert "pip install 'lego-egogen[ldm]'" in bare.stderr
    (place,) = (tmp_path / "env" / "lib").glob("*/site-packages")
    (place / "libraries.pth").write_text(sysconfig.get_path("purelib"))
    ran = subprocess.run(
        [str(python), "-c", COMMANDS], cwd=work, env=plain, input=ten_lines(),
        text=True, capture_output=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    (*_, versions) = ran.stdout.splitlines()
    word, *told, file = versions.split(" ")
    assert word == "VERSIONS"
    assert len(set(told)) == 1
    assert Path(file).is_relative_to(place)
    with Image.open(work / "action.png") as drawn, Image.open(work / "photo.jpg") as photo:
        assert drawn.size == photo.size
        colours = np.asarray(drawn, np.float32) - np.asarray(photo.convert("RGB"), np.float32)
    assert 1 < np.abs(colours).mean() < 60  # another frame of the same scene, not noise
    assert "LEGO" in (work / "report" / "table.md").read_text()  # the paper's rows
    assert "Traceback" not in ran.stderr
    assert "\r" not in ran.stderr
