"""`last.ckpt` is what a run goes on from, also where a kill came between the two names of a checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ldm.training.callbacks.checkpoints import AtomicFiles, Checkpoints, find_resume


@pytest.mark.parametrize("damage", ["older", "damaged", "missing"])
def test_the_resumed_checkpoint_becomes_the_last(damage: str, tmp_path: Path) -> None:
    for step in (1, 2, 3):
        torch.save({"global_step": step}, tmp_path / f"step=000000{step}.ckpt")
    last = tmp_path / "last.ckpt"
    if damage == "older":  # killed before the newest was linked
        torch.save({"global_step": 2}, last)
    elif damage == "damaged":
        last.write_bytes(b"PK\x03\x04")
    resumed = tmp_path / "step=0000003.ckpt"
    Checkpoints(tmp_path, AtomicFiles(), every=1, keep_last=0, keep_every=0).tidy(3)
    assert last.samefile(resumed)
    assert find_resume(tmp_path) == last
    Checkpoints(tmp_path, AtomicFiles(), every=1, keep_last=0, keep_every=0).tidy(2)
    assert last.samefile(tmp_path / "step=0000002.ckpt")
    assert (tmp_path / "abandoned-step=0000003.ckpt").exists()
