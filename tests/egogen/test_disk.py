"""A full disk is one line, whichever library met it first; the file is absent afterwards, not cut off."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa
import pytest
import safetensors.torch
import torch
from PIL import Image
from pyarrow import parquet

from egogen import cli
from egogen.disk import full, reserve, writing
from egogen.errors import UserError
from egogen.files import atomic_open
from tests.small_disk import largest_file

LIMIT = 10_000
PIXELS = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
WRITERS: dict[str, Callable[[IO[bytes]], object]] = {
    "bytes": lambda file: file.write(PIXELS.tobytes()),
    "numpy": lambda file: np.save(file, PIXELS),
    "torch": lambda file: torch.save(torch.from_numpy(PIXELS), file),
    "torch by path": lambda file: torch.save(torch.from_numpy(PIXELS), file.name),
    "safetensors": lambda file: safetensors.torch.save_file({"x": torch.from_numpy(PIXELS)}, file.name),
    "pillow": lambda file: Image.fromarray(PIXELS).save(file, format="PNG"),
    "pyarrow": lambda file: parquet.write_table(pa.table({"x": PIXELS.ravel()}), file),
    "pyarrow by path": lambda file: parquet.write_table(pa.table({"x": PIXELS.ravel()}), file.name),
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_every_library_s_full_disk_is_one_line(write: Callable[[IO[bytes]], object], tmp_path: Path) -> None:
    with largest_file(LIMIT), pytest.raises(UserError) as told, atomic_open(tmp_path / "file") as file:
        write(file)
    line = str(told.value)
    assert line.startswith(f"{tmp_path / 'file'}: not written (")
    assert "B free. Free some room" in line
    assert "\n" not in line
    assert not list(tmp_path.iterdir())
    with atomic_open(tmp_path / "file") as file:  # on a disk with room
        write(file)
    assert (tmp_path / "file").stat().st_size > LIMIT


def test_how_much_is_needed(tmp_path: Path) -> None:
    line = r"File too large\); it needs more than 10\.0 kB, the disk has \S+ .?B free"
    with largest_file(LIMIT), pytest.raises(UserError, match=line), atomic_open(tmp_path / "file") as file:
        file.write(bytes(3 * LIMIT))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_quotas_and_limits_count_as_full(number: int, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"{tmp_path}: not written"), writing(tmp_path):
        raise OSError(number, "full")


@pytest.mark.parametrize(
    "error", [PermissionError(13, "no"), RuntimeError("shape"), OSError(errno.EIO, "inline_container")]
)
def test_other_errors_stay_what_they_are(error: Exception, tmp_path: Path) -> None:
    with pytest.raises(type(error)), writing(tmp_path):
        raise error


def test_ctrl_c_in_torch_s_writer_is_no_full_disk() -> None:
    error = RuntimeError("[enforce fail at inline_container.cc:664] unexpected pos")
    assert full(error) is error
    error.__context__ = KeyboardInterrupt()
    assert full(error) is None


def test_a_file_written_through_memory_is_reserved(tmp_path: Path) -> None:
    path = tmp_path / "array.npy"
    np.lib.format.open_memmap(path, "w+", np.float16, (50_000,))
    assert path.stat().st_blocks * 512 < 50_000  # a hole: nothing is reserved yet
    reserve(path)
    assert path.stat().st_blocks * 512 > 100_000


@pytest.mark.parametrize("name", [None, "data/index.json"])
def test_at_the_door(name: str | None, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    def crash() -> None:
        raise OSError(28, "No space left on device", *([f"{tmp_path / name}"] if name else []))

    with pytest.raises(SystemExit) as ended:
        cli.run(crash)
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert told.startswith(f"error: {tmp_path / name}: not written" if name else "error: a disk is full")
    assert "No space left" in told
    assert "free" in told
