"""What the README and the docs say can be run, exists; files and pages that they name are there."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.doors import help_texts
from tests.workbench import ROOT

README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted(ROOT.glob("docs/*.md"))]
PACKAGES = ("egogen", "llava", "ldm")


def table() -> list[str]:
    """The commands of docs/commands.md."""
    cells = re.findall(
        r"^\| (`.*?`) \| .* \| [\w-]+ \|$", (ROOT / "docs/commands.md").read_text(), re.MULTILINE
    )
    return [command for cell in cells for command in re.findall(r"`([^`]+)`", cell)]


def blocks() -> list[str]:
    """The commands in the README's bash blocks."""
    text = "\n".join(re.findall(r"^```bash\n(.*?)^```", README, re.MULTILINE | re.DOTALL))
    return [line for line in text.splitlines() if line]


def target(command: str) -> Path | None:
    """The file that a command runs, or None for tools that are not ours."""
    words = shlex.split(command, comments=True)
    if words[:2] == ["python", "-m"]:
        path = ROOT / words[2].replace(".", "/")
        return path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
    return ROOT / words[1] if words[0] in ("bash", "python") else None


READY = table() + blocks()
PYTHON = [command for command in READY if command.startswith("python ")]


def test_the_table_was_read() -> None:
    assert "bash scripts/demo.sh" in READY
    assert len(PYTHON) > 5


@pytest.mark.parametrize("command", READY)
def test_a_command_exists(command: str) -> None:
    path = target(command)
    assert path is None or path.is_file()
    assert path is None or path.suffix != ".py" or '__name__ == "__main__"' in path.read_text()
    for word in shlex.split(command, comments=True):
        assert not word.startswith("configs/") or (ROOT / word).is_file(), word


@pytest.mark.parametrize("command", PYTHON)
def test_a_python_command_knows_its_options(command: str) -> None:
    words = shlex.split(command)
    name = words[2] if words[1] == "-m" else words[1]
    text = help_texts()[name]
    assert "usage: " in text
    for option in re.findall(r"--[\w-]+", command):
        assert re.search(rf"{option}\b", text), f"{name} has no {option}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_exist(page: Path) -> None:
    text = page.read_text()
    for name in re.findall(r"`((?:configs|tests|egogen|llava|ldm)/[\w./-]+\.\w+)`", text):
        assert (ROOT / name).exists(), name


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs/index.md").read_text()
    assert all(f"({page.name})" in index for page in ROOT.glob("docs/*.md") if page.name != "index.md")


def test_the_tree_names_what_is_there() -> None:
    tree = re.search(r"## What is where\n\n```\n(.*?)```", README, re.DOTALL)
    assert tree
    named = [line.split()[0] for line in tree[1].splitlines()]
    assert all((ROOT / name).exists() for name in named)
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, text=True, capture_output=True, check=True).stdout
    parts = [Path(line).parts for line in tracked.splitlines()]
    folders = {f"{part[0]}/" for part in parts if len(part) > 1}
    folders |= {f"{part[0]}/{part[1]}/" for part in parts if len(part) > 2 and part[0] in PACKAGES}
    files = {part[0] for part in parts if len(part) == 1 and not part[0].startswith(".")} - {"README.md"}
    assert folders | files <= set(named)
