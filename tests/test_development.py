"""docs/development.md names files and functions: each of them is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs/development.md").read_text(encoding="utf-8")
FILES = sorted(set(re.findall(r"`((?:egogen|llava|ldm)/[\w/]+\.py|main\.py)`", TEXT)))
NAMES = sorted(set(re.findall(r"`((?:egogen|llava|ldm)(?:\.\w+)+)`", TEXT)))


def test_the_guide_names_something() -> None:
    assert len(FILES) > 10
    assert len(NAMES) > 20


@pytest.mark.parametrize("name", FILES)
def test_files_of_the_guide_are_there(name: str) -> None:
    assert (ROOT / name).is_file()


@pytest.mark.parametrize("name", NAMES)
def test_functions_of_the_guide_are_there(name: str) -> None:
    parts = name.split(".")
    places = [ROOT.joinpath(*parts[:depth]) for depth in range(1, len(parts) + 1)]
    depth = sum(place.is_dir() or place.with_suffix(".py").is_file() for place in places)
    place = places[depth - 1]
    inside = parts[depth:]
    if not inside:
        return
    found: list[ast.stmt] = ast.parse(place.with_suffix(".py").read_text(encoding="utf-8")).body
    for part in inside:
        defined = {node.name: node for node in found if isinstance(node, ast.ClassDef | ast.FunctionDef)}
        assert part in defined, f"{name}: no {part} in {place.with_suffix('.py')}"
        found = defined[part].body
