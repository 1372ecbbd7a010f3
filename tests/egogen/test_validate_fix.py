"""`egogen.validate --fix` repairs what is safe, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from egogen.layout import Layout
from egogen.validate.__main__ import main
from tests.egogen.damage import annotations, edit, faults, frame, target_differs, target_extra, unfinished


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_fix_repairs_what_is_safe_and_nothing_else(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(root)
    for damage in (unfinished, target_differs, target_extra):
        damage(root)
    Layout(root, "ego4d").metric_targets.joinpath("toy_val_000001/0/frame_0000000045.jpg").unlink()
    main([str(root), "--fix"])
    shown = capsys.readouterr().out
    assert "repaired: deleted the unfinished file" in shown
    assert "repaired: copied 2 val targets" in shown
    assert "repaired: moved" in shown
    after = contents(root)
    moved = "EgoGen/ego4d.fho/val_gt_for_metric.extra/x.jpg"
    assert after.pop(moved) == b"x"
    assert after == before
    main([str(root), "--fix"])
    assert capsys.readouterr().out.startswith("repaired: nothing, there was nothing to do\n")


def test_fix_deletes_unfinished_files_of_ours_alone(root: Path) -> None:
    ours, mine = (root / "EgoGen" / name for name in (".x.jpg.00.part", "notes.part"))
    for path in (ours, mine):
        path.write_bytes(b"x")
    assert faults(root, fix=True) == {}
    assert mine.exists()
    assert not ours.exists()


def test_fix_keeps_the_last_good_copy_of_a_broken_target(root: Path) -> None:
    frame(root, "val", 0, "45").write_bytes(b"broken")
    frame(root, "val", 1, "45").unlink()
    before = contents(root)
    found = faults(root, fix=True)
    assert contents(root) == before
    assert "ego4d/val, frames readable" in found
    assert "ego4d/val, frames present" in found


def test_fix_moves_nothing_if_it_cannot_read_which_targets_there_are(root: Path) -> None:
    edit(annotations(root, "val"), lambda value: value["toy_val_000000"]["0"].pop("image_1"))
    before = contents(root)
    assert faults(root, fix=True)
    assert contents(root) == before
