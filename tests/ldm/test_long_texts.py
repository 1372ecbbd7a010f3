"""Long texts in pickles, over which torch's safe reading stands for hours, are refused at once."""

from __future__ import annotations

import time
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from egogen.errors import UserError
from egogen.features.weight_files import read_tensors
from egogen.pickled_texts import LONGEST, texts
from egogen.prepare.embedders import load_head
from ldm.checkpoints.safe_reading import read
from tests.ldm.test_fuzz import saved

ENDLESS = "9" * 300_000  # twenty minutes of torch's
READERS: list[Callable[[Path], object]] = [read, read_tensors, load_head]


@pytest.mark.parametrize("reader", READERS)
def test_a_name_without_end_is_refused_at_once(reader: Callable[[Path], object], tmp_path: Path) -> None:
    """The name of a type, in the format of before torch 1.6, whose pickles lie open in the file."""
    plain = saved({"a": torch.ones(2, 3)}, old=True)
    path = tmp_path / "x.bin"
    path.write_bytes(plain.replace(b"OrderedDict\n", f"OrderedDict{ENDLESS}\n".encode(), 1))
    began = time.process_time()
    with pytest.raises(
        UserError, match=r"x\.bin: .*holds a text of \d+ signs, .*allowed are 10000 without a space"
    ):
        reader(path)
    assert time.process_time() - began < 5


@pytest.mark.parametrize("sign", ["\\x", "\u00e9", "%", ""])
def test_no_sign_before_it_hides_a_long_name(sign: str, tmp_path: Path) -> None:
    """Nor the end of a ZIP behind the file."""
    plain, path = saved({"a": torch.ones(2, 3)}, old=True), tmp_path / "x.ckpt"
    path.write_bytes(plain.replace(b"OrderedDict\n", f"{sign}{ENDLESS}\n".encode(), 1))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("other", "")
    with pytest.raises(UserError, match="holds a text of"):
        read(path)


def test_of_two_members_of_one_name_both_are_seen(tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    with zipfile.ZipFile(path, "w") as archive, warnings.catch_warnings(action="ignore"):
        for text in ("first", "second"):
            archive.writestr(
                "x/data.pkl", b"\x80\x02X" + len(text).to_bytes(4, "little") + text.encode() + b"."
            )
    assert [*texts(path)] == ["first", "second"]


@pytest.mark.parametrize("old", [False, True])
def test_long_texts_are_refused_and_long_sentences_read(old: bool, tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    path.write_bytes(saved({"state_dict": {"a": torch.ones(1)}, "note": "a word " * 5000}, old))
    assert read(path)["note"].startswith("a word")
    path.write_bytes(saved({"state_dict": {"a": torch.ones(1)}, "note": "x" * LONGEST}, old))
    assert read(path)["note"] == "x" * LONGEST
    path.write_bytes(saved({"state_dict": {"a": torch.ones(1)}, "note": "x" * (LONGEST + 1)}, old))
    with pytest.raises(UserError, match="text of 10001 signs"):
        read(path)


def test_all_texts_of_a_file_are_seen(tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    for old in (False, True):
        path.write_bytes(saved({"first": torch.ones(1), "last": ["word"]}, old))
        assert {"first", "last", "word", "cpu"} <= set(texts(path))
    for damaged in (b"", b"\x80\x02X\xff\xff\xff\xff", path.read_bytes()[:300], b"PK\x03\x04"):
        path.write_bytes(damaged)
        assert "word" not in set(texts(path))
