"""Variables that huggingface_hub cannot be imported with, and odd paths: one line, code 2, no traceback."""

from __future__ import annotations

import subprocess
import sys

import pytest

from egogen.errors import UserError
from egogen.layout import data_root
from egogen.variables import check_variables

BAD = [
    ("HF_ENDPOINT", "http://[::1"),
    ("HF_ENDPOINT", "http://x:port"),
    ("HF_ENDPOINT", "http://x:99999999"),
    ("HF_HUB_DOWNLOAD_TIMEOUT", "soon"),
    ("HF_HUB_ETAG_TIMEOUT", "1e3"),
    ("HF_HUB_ETAG_TIMEOUT", "-1"),
    ("HF_HUB_DOWNLOAD_TIMEOUT", ""),
]


@pytest.mark.parametrize(("name", "value"), BAD)
def test_what_a_library_cannot_read_is_named(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=rf"^{name}='.*' in the environment: expected .*; unset it$"):
        check_variables()


@pytest.mark.parametrize(
    "value", ["", "https://huggingface.co", "http://127.0.0.1:8080/x", "http://[::1]:80"]
)
def test_addresses_that_are_some(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", value)
    monkeypatch.setenv("HF_HUB_ETAG_TIMEOUT", "3")
    check_variables()


def test_a_command_says_it_before_it_imports_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://[::1")
    words = ["egogen.download", "weights", "--what", "lego-ego4d", "--dest", "nowhere", "--dry-run"]
    ended = subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: HF_ENDPOINT='http://[::1' in the environment")
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize("value", ["~nobody-is-called-so/x", "a" * 300, "b/" * 3000])
def test_roots_that_no_folder_can_be(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA_ROOT", value)
    with pytest.raises(UserError, match=r"no such home folder|no file can be called that") as caught:
        data_root()
    assert len(f"{caught.value}") < 300
