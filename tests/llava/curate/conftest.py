"""A small toy world to curate, and the command in this process."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from egogen.toy.world import write_world
from llava.curate.__main__ import main
from tests.llava.curate.server import KEY, Server

ACTIONS = 8


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy world without curated texts."""
    root = tmp_path_factory.mktemp("world")
    write_world(root, train=ACTIONS, val=2, size=48, seed=3, workers=1)
    shutil.rmtree(root / "EgoGen" / "curation_from_gpt")
    return root


Run = Callable[..., int]


@pytest.fixture
def run(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the command on the world with its cache and output in `tmp_path`; returns the exit code."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)

    def run(server: Server, *flags: str, dataset: str = "ego4d") -> int:
        try:
            main(command(world, tmp_path, server, *flags, dataset=dataset))
        except SystemExit as end:
            return int(end.code or 0)
        return 0

    return run


def command(world: Path, folder: Path, server: Server, *flags: str, dataset: str = "ego4d") -> list[str]:
    """The command's flags; later ones win."""
    return [
        *("--dataset", dataset, "--data-root", str(world), "--model", "m", "--base-url", server.url),
        *("--out", str(folder / "out.json"), "--cache", str(folder / "cache"), *flags),
    ]


def report_of(folder: Path) -> dict[str, Any]:
    """The report of the last run."""
    made: dict[str, Any] = json.loads((folder / "out.report.json").read_text())
    return made
