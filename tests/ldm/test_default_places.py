"""Without a flag that says otherwise, what a command makes is below RUN_ROOT."""

from pathlib import Path

import pytest

from egogen import cli
from ldm.sample import SampleOptions
from ldm.sampling.edit_options import EditOptions
from ldm.train import TrainOptions


@pytest.fixture(autouse=True)
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RUN_ROOT", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("photo", "prompt", "name"),
    [
        ("in/photo.jpg", "open the drawer", "photo_open_the_drawer.png"),
        ("a.b.png", "Cut: the carrot / onion!", "a.b_Cut_the_carrot_onion.png"),
        ("x" * 99, "ж" * 99, f"{'x' * 25}_{'ж' * 25}.png"),
        ("p.png", "...", "p_.png"),
    ],
)
def test_an_edit(runs: Path, photo: str, prompt: str, name: str) -> None:
    made = EditOptions(input=Path(photo), prompt=prompt, ckpt=Path("c.ckpt"))
    assert made.target == runs / "edits" / name
    assert len(str(name).encode()) < 200


def test_frames_and_training_runs(runs: Path) -> None:
    drawn = SampleOptions(config=["configs/generate_toy.yaml"], method="copy", overrides=[])
    assert drawn.folder == runs / "samples" / "generate_toy_copy"
    assert cli.options(TrainOptions, [], "main.py", None).logdir == runs / "logs"
