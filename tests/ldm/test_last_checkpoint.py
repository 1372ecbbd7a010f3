"""`last.ckpt` is what a run goes on from, also where a kill came between the two names of a checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from egogen.errors import UserError
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


def test_a_last_checkpoint_that_leads_nowhere_is_no_new_beginning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As of a run whose checkpoints were moved away."""
    last = tmp_path / "last.ckpt"
    last.symlink_to("step=0000003.ckpt")
    with pytest.raises(
        UserError, match=r"last\.ckpt: is a link to step=0000003\.ckpt, which is not there; no"
    ):
        find_resume(tmp_path)
    older, gone = (tmp_path / f"step=000000{step}.ckpt" for step in (2, 1))
    torch.save({"global_step": 2}, older)
    gone.symlink_to("elsewhere")
    assert find_resume(tmp_path) == older
    assert f"resume from the checkpoint before it: {older}" in caplog.text
    caplog.clear()
    last.unlink()
    last.symlink_to(older.name)
    assert find_resume(tmp_path) == last
    assert not caplog.text
