"""The command itself: it says where the page is, ends in good order, and leaves nothing behind."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

import pytest

from egogen.errors import UserError
from egogen.files import this_host
from ldm.page.__main__ import main
from ldm.page.running import own_folder
from tests.forked import Forked, command
from tests.ldm.page.running_page import png, until


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 0), (signal.SIGHUP, 143)]
)
def test_its_folder_is_gone_whatever_ends_it(
    number: signal.Signals, code: int, checkpoints: Path, tmp_path: Path
) -> None:
    flags = ["--ckpt", str(checkpoints / "lego.ckpt"), "--port", "0", "--device", "cpu"]
    process = Forked(command, "ldm.page", flags, log=tmp_path / "log", folder=tmp_path)
    try:
        until(lambda: "the page: " in process.printed or process.poll() is not None, 120)
        url = re.search(r"http://127\.0\.0\.1:\d+", process.printed)
        own = re.search(r"uploads and frames: (\S+), deleted", process.printed)
        assert url, process.printed
        assert own, process.printed
        folder = Path(own[1])
        assert folder.stat().st_mode & 0o077 == 0
        photo = urllib.request.Request(f"{url[0]}/api/photos", png())
        with urllib.request.urlopen(photo) as answer:
            assert answer.status == 201
        assert list((folder / "photos").iterdir())
        os.kill(process.pid, number)
        assert process.wait(60) == code, process.printed
    finally:
        process.process.kill()
    assert not folder.exists()
    assert "Traceback" not in process.printed
    assert [path.name for path in tmp_path.iterdir()] == ["log"]


def test_a_port_that_is_taken_is_told_at_once(checkpoints: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=rf"--port {port}: cannot be listened on \(.*\); choose another"):
            main(["--ckpt", str(checkpoints / "lego.ckpt"), "--port", f"{port}"])
    told = r"--host nowhere\.invalid --port 7860: cannot be listened on \(.*\); --host is an address of this"
    with pytest.raises(UserError, match=told):
        main(["--ckpt", str(checkpoints / "lego.ckpt"), "--host", "nowhere.invalid"])


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--ckpt", "none.ckpt"], r"none\.ckpt: no such checkpoint file"),
        (
            ["--ckpt", "{lego}", "--vllm", "none", "--vllm-python", sys.executable],
            "--vllm none: no such folder",
        ),
        (
            ["--ckpt", "{lego}", "--vllm", "x", "--vllm-python", "{lego}"],
            "lego.ckpt: cannot be run .Permission",
        ),
        (
            ["--ckpt", "{lego}", "--vllm", "x", "--vllm-python", "none"],
            "--vllm-python none: not found; run bash",
        ),
        (["--ckpt", "{lego}", "--compare", "a=none.ckpt"], r"none\.ckpt: no such checkpoint file"),
    ],
)
def test_what_cannot_be_loaded(flags: list[str], said: str, checkpoints: Path) -> None:
    words = [word.format(lego=checkpoints / "lego.ckpt") for word in flags]
    with pytest.raises(UserError, match=said):
        main([*words, "--port", "0", "--device", "cpu"])


def test_what_a_killed_page_left_goes_with_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", f"{tmp_path}")
    ended = subprocess.Popen(["true"])
    ended.wait()
    left, alive = (
        tmp_path / f".lego-page.{this_host()}-{pid}-0123abcd.part" for pid in (ended.pid, os.getpid())
    )
    for folder in (left, alive):
        (folder / "photos").mkdir(parents=True)
    with own_folder() as own:
        assert own.stat().st_mode & 0o777 == 0o700
        assert {path.name for path in tmp_path.iterdir()} == {alive.name, own.name}
    assert [path.name for path in tmp_path.iterdir()] == [alive.name]
