"""`ldm.edit` with stage 1 elsewhere: a given description, widths; names that keep what is there."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from egogen.errors import UserError
from egogen.files import write_json
from ldm.edit import main as edit
from ldm.sampling.edit_options import EditOptions
from ldm.sampling.editing import free_path
from tests.ldm.test_edit import FEATURES, draw, folder, words
from tests.ldm.toy_run import WIDTH

__all__ = ["folder"]

# Does what `llava.describe` does with texts that are given: repeats them; writes a feature of each kind.
STAND_IN = """
import json, shutil, sys
from pathlib import Path
flags = dict(zip(sys.argv[3::2], sys.argv[4::2]))
actions = json.loads(Path(flags["--action-label"]).read_text())
assert actions["photo"]["0"]["action"] == "open the box"
given = json.loads(Path(flags["--texts"]).read_text()) if "--texts" in flags else {"photo": {"0": "its own"}}
for kind in ("image", "text"):
    path = Path(flags[f"--save-{kind}-feature-path"])
    path.mkdir(parents=True)
    shutil.copy(f"FOLDER/{kind}.npy", path / "photo.npy")
Path(flags["--save-path"]).mkdir()
texts = {"photo": {"0": {"description": given["photo"]["0"].strip()}}}
(Path(flags["--save-path"]) / "chunk_1_of_1.json").write_text(json.dumps(texts))
"""


@pytest.fixture
def stage_one(folder: Path, tmp_path: Path) -> list[str]:
    """The flags of a VLLM folder and of a Python that stands in for stage 1."""
    (tmp_path / "describe.py").write_text(STAND_IN.replace("FOLDER", str(folder)))
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {tmp_path}/describe.py "$@"\n')
    python.chmod(0o755)
    (tmp_path / "vllm").mkdir()
    return ["--vllm", str(tmp_path / "vllm"), "--vllm-python", str(python)]


def test_what_is_drawn_from_is_the_given_description(
    folder: Path, tmp_path: Path, stage_one: list[str]
) -> None:
    text = "both hands pull it open"
    drawn = draw(folder, tmp_path / "a.png", "lego.ckpt", *stage_one, "--description", f" {text} ")
    expected = draw(folder, tmp_path / "b.png", "lego.ckpt", *FEATURES, "--prompt", text)
    assert np.array_equal(drawn, expected)
    own = draw(folder, tmp_path / "c.png", "lego.ckpt", *stage_one)
    assert abs(own - drawn).max() > 0


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--description", "a"], "--description: its features are made by --vllm"),
        (["--prompt", ""], "--prompt '': it is blank; words are needed"),
        (["--prompt", "\u200b "], "it is blank"),
        (["--description", " ", "--vllm", "x"], "--description ' ': it is blank"),
        (["--description", "a </s>", "--vllm", "x"], "it holds </s>"),
        (["--vllm", "nowhere", "--vllm-python", sys.executable], "--vllm nowhere: no such folder"),
    ],
)
def test_wrong_arguments(folder: Path, tmp_path: Path, more: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        edit(words(folder, tmp_path / "a.png", "lego.ckpt", *more))


@pytest.mark.parametrize("form", ["published", "hugging face", "adapters"])
def test_another_width_is_told_before_stage_1_starts(
    form: str, folder: Path, tmp_path: Path, stage_one: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("subprocess.run", lambda *_, **__: pytest.fail("stage 1 was started"))
    vllm = tmp_path / "vllm"
    wide = {"hidden_size": WIDTH + 1}
    if form == "adapters":
        (tmp_path / "base").mkdir()
        write_json(vllm / "adapter_config.json", {"base_model_name_or_path": str(tmp_path / "base")})
        write_json(tmp_path / "base/config.json", wide)
    else:
        write_json(vllm / "config.json", wide if form == "published" else {"text_config": wide})
    with pytest.raises(UserError, match=rf"features are {WIDTH + 1} wide, .*lego\.ckpt takes {WIDTH}"):
        draw(folder, tmp_path / "a.png", "lego.ckpt", *stage_one)


@pytest.mark.parametrize("settings", [{"hidden_size": WIDTH}, {}, {"text_config": {}}])
def test_the_right_width_and_one_that_is_not_stated_are_drawn(
    settings: dict[str, object], folder: Path, tmp_path: Path, stage_one: list[str]
) -> None:
    write_json(tmp_path / "vllm/config.json", settings)
    draw(folder, tmp_path / "a.png", "lego.ckpt", *stage_one)


def test_edits_of_one_name_are_all_kept(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUN_ROOT", str(tmp_path))
    flags = words(folder, tmp_path, "lego.ckpt")
    place = flags.index("--output")
    del flags[place : place + 2]
    for seed in ("0", "1"):
        edit([*flags, "--seed", seed])
    first, second = (tmp_path / "edits" / f"photo_open_the_box{more}.png" for more in ("", "_2"))
    assert sorted((tmp_path / "edits").iterdir()) == [first, second]
    assert abs(np.asarray(Image.open(first), int) - np.asarray(Image.open(second), int)).max() > 0
    named = tmp_path / "named.png"
    for seed in ("0", "1"):  # a name that is given is that of the newest
        edit([*flags, "--seed", seed, "--output", str(named)])
    assert named.read_bytes() == second.read_bytes()
    assert len([*tmp_path.rglob("*.png")]) == 3


def test_numbers_begin_behind_names_that_end_in_some(tmp_path: Path) -> None:
    target = EditOptions(input=Path("a.b.png"), prompt="cut 2", ckpt=Path("c.ckpt")).target.name
    for expected in ("a.b_cut_2.png", "a.b_cut_2_2.png", "a.b_cut_2_3.png"):
        found = free_path(tmp_path / target)
        assert found.name == expected
        found.touch()
