"""Every command answers `--help` before it imports what is slow."""

from __future__ import annotations

import pytest

from tests.doors import doors, help_texts

SLOW = {"torch", "transformers", "diffusers", "pytorch_lightning", "tensorboard", "matplotlib", "deepspeed"}


def test_doors_are_found() -> None:
    assert {"main.py", "ldm.sample", "ldm.toy", "llava.train", "egogen.pack"} <= set(doors())


@pytest.mark.parametrize("stage", ["vllm", "ldm"])
def test_help_imports_nothing_slow(stage: str) -> None:
    found = help_texts(stage)
    assert len(found) > 5
    assert [name for name, shown in found.items() if SLOW & set(shown.packages)] == []
    assert [name for name, shown in found.items() if not shown.text.startswith("usage: python ")] == []
