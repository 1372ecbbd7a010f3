"""Settings: what is allowed, what is said of what is not, and the command that draws the same."""

from __future__ import annotations

import shlex
from argparse import ArgumentTypeError
from pathlib import Path
from typing import Any

import pytest

from egogen import cli
from egogen.errors import UserError
from ldm.page.choosing import choose
from ldm.page.frame_settings import Networks, command, edit_options, read_settings
from ldm.page.page_options import PageOptions
from ldm.page.scenes import COMMON
from ldm.sampling.edit_options import EditOptions

PYTHON = Path(".venvs/vllm/bin/python")
ALONE = Networks(
    Path("a.ckpt"), None, None, no_ema=False, preset="fast", precision="auto", device="auto",
    vllm_python=PYTHON,
)  # fmt: skip


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"action": " \n"}, "action: got ' \\\\n'; write an action"),
        ({"action": "open\x1b[2J"}, "action: got .*; it holds U\\+001B, a sign that is not shown"),
        ({"description": "a \u202e b"}, "description: got .*; it holds U\\+202E, a sign that is not shown"),
        ({"action": "x" * 301}, "action: got .*at most 300"),
        ({"seed": -1}, "seed: got -1; .*greater than or equal to 0"),
        ({"seed": 2**32}, "seed: got"),
        ({"seed": 1.5}, "seed: got 1.5"),
        ({"seed": "1"}, "seed: got '1'"),
        ({"steps": 0}, "steps: got 0"),
        ({"cfg_text": float("nan")}, "cfg_text: got nan"),
        ({"cfg_image": 101}, "cfg_image: got 101"),
        ({"preset": "slow"}, "preset: got 'slow'"),
        ({"sed": 1}, "sed: got 1"),
        ({"scheduler": "a b"}, "scheduler: got 'a b'"),
    ],
)
def test_what_is_refused(more: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        read_settings({"action": "open", **more})


def test_what_does_not_fit_is_said_in_the_words_of_the_page() -> None:
    settings = read_settings({"action": "open", "resolution": 33})
    with pytest.raises(UserError, match="size: got 33, allowed: a multiple of 8"):
        edit_options(settings, ALONE, Path("photo.png"))


@pytest.mark.parametrize("vllm", [None, Path("vllm")])
def test_the_command_says_the_same_as_the_settings(vllm: Path | None) -> None:
    settings = read_settings(
        {
            "action": "open the 'box' $(x)", "description": "--both hands\ndo it", "seed": 7, "steps": 3,
            "preset": "balanced", "cfg_text": 2.5, "cfg_image": 1.25, "scheduler": "unipc", "resolution": 40,
        }
    )  # fmt: skip
    asked = edit_options(settings, ALONE._replace(vllm=vllm, no_ema=True), Path("photo.jpg"))
    assert asked.prompt == (settings.description if vllm is None else settings.action)
    assert asked.description == (None if vllm is None else settings.description)
    words = shlex.split(command(asked, "photo.jpg"))
    assert words[:6] == ["bash", "scripts/run.sh", "ldm", "python", "-m", "ldm.edit"]
    assert cli.options(EditOptions, words[6:], "x", None) == asked


def test_the_command_names_another_device_and_python_alone() -> None:
    networks = ALONE._replace(vllm=Path("vllm"))
    settings = read_settings({"action": "open"})
    usual = shlex.split(command(edit_options(settings, networks, Path("a.png")), "a.png"))
    assert not {"--device", "--vllm-python"} & {*usual}
    asked = edit_options(settings, networks._replace(device="cpu", vllm_python=Path("p")), Path("a.png"))
    words = shlex.split(command(asked, "a.png"))
    assert cli.options(EditOptions, words[6:], "x", None) == asked


def test_a_blank_description_is_none() -> None:
    assert read_settings({"action": " a ", "description": " \n"}).description is None
    assert read_settings({"action": " a "}).action == "a"
    assert all(read_settings({"action": action}) for action in COMMON)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--port 70000", "--port: got 70000"),
        ("--max-mb 0", "--max-mb: got 0.0"),
        ("--max-waiting 0", "--max-waiting: got 0, allowed: at least 1"),
        ("--compare ip2p", "--compare: got 'ip2p', allowed: NAME=CKPT"),
        ("--compare a=b a=c", "each name once"),
        ("--vllm x", "goes with --ckpt"),
        ("--batch 99", "--batch: got 99"),
    ],
)
def test_flags(words: str, said: str) -> None:
    with pytest.raises((UserError, ArgumentTypeError), match=said):
        cli.options(PageOptions, words.split(), "app.py", None)


def test_what_is_taken_without_flags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUN_ROOT", str(tmp_path))
    monkeypatch.setattr("ldm.page.choosing.TOY_START", tmp_path / "toy_start")
    options = cli.options(PageOptions, [], "app.py", None)
    with pytest.raises(UserError, match=r"no checkpoint: neither .*; make one by bash scripts/demo\.sh, or"):
        choose(options)
    (tmp_path / "toy_start" / "vllm").mkdir(parents=True)
    (tmp_path / "toy_start" / "lego.safetensors").touch()
    python = tmp_path / "python"
    python.touch()
    options = PageOptions(vllm_python=python)
    assert choose(options) == (tmp_path / "toy_start/lego.safetensors", tmp_path / "toy_start/vllm")
    last = tmp_path / "toy/logs/run/checkpoints/last.ckpt"
    last.parent.mkdir(parents=True)
    last.touch()
    assert choose(options) == (last, None)  # without its VLLM, stage 2 draws alone
    (tmp_path / "toy/vllm").mkdir()
    assert choose(options) == (last, tmp_path / "toy/vllm")
    assert choose(PageOptions(vllm_python=tmp_path / "none")) == (last, None)
    assert choose(PageOptions(ckpt=Path("x"), vllm=Path("y"))) == (Path("x"), Path("y"))
