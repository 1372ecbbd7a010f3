"""TorchScript archives: what torch's own reader finds in them (the witness) is found without running them."""

# ruff: noqa: ANN001, ANN201 - TorchScript compiles these modules and reads annotations its own way

import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from egogen.errors import UserError
from egogen.torchscript import is_torchscript, read_torchscript
from tests.egogen.scripted import Restored, save


class Inner(nn.Module):
    """Tensors of many kinds, and attributes that are none."""

    def __init__(self, shared: torch.Tensor) -> None:
        super().__init__()
        self.transposed = nn.Parameter(torch.arange(12.0).view(3, 4).t())
        self.register_buffer("part", torch.arange(20.0, dtype=torch.float64)[3:15].view(3, 4)[:, ::2])
        self.register_buffer("shared", shared[2:])
        self.register_buffer("repeated", torch.tensor([7]).expand(5))
        self.register_buffer("empty", torch.zeros(0, 3), persistent=False)
        self.register_buffer("flags", torch.tensor([True, False]))
        self.register_buffer("nan", torch.tensor([float("nan"), -0.0]).bfloat16())
        self.register_buffer("absent", None)
        self.convolution = nn.Conv2d(3, 4, 2)
        self.plain = torch.ones(2)  # an attribute, not among the weights
        self.count, self.large, self.share, self.name, self.sizes = -3, 2**40, 2.5, "weight", [1, 2]
        self.table = {"one": 1}

    def forward(self, x):
        return x


def witness(path: Path) -> dict[str, torch.Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.load(path, map_location="cpu").state_dict()


def bits(value: torch.Tensor) -> bytes:
    return bytes(value.contiguous().reshape(-1).clone().view(torch.uint8).numpy())


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    shared = torch.arange(6.0)
    inner = Inner(shared)
    whole = nn.Sequential(inner, nn.Linear(3, 2).half(), nn.BatchNorm1d(2).eval(), Inner(shared), inner)
    return save(whole, tmp_path / "whole.pt")


def test_what_torch_finds_is_found(archive: Path) -> None:
    found, expected = read_torchscript(archive), witness(archive)
    assert list(found) == list(expected)
    assert len(found) == 9 * 3 + 2 + 5
    for name, value in expected.items():
        assert (found[name].dtype, found[name].shape) == (value.dtype, value.shape), name
        assert found[name].stride() == value.stride(), name
        assert bits(found[name]) == bits(value), name
    assert len({found[f"{place}.shared"].data_ptr() for place in (0, 3, 4)}) == 1
    found["0.shared"][0] = 9  # may be written to
    assert found["3.shared"][0] == 9


def test_nothing_of_it_runs(tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_bytes(bytes(16))
    hostile = save(nn.Sequential(nn.Linear(2, 2), Restored(str(target))), tmp_path / "hostile.pt")
    target.write_bytes(bytes(16))
    with pytest.raises(UserError, match=r"hostile\.pt: refused, .*restores itself by code of its own"):
        read_torchscript(hostile)
    assert target.read_bytes() == bytes(16)
    witness(hostile)
    assert target.read_bytes() != bytes(16)  # torch's reader does run it


class Call:
    """Pickles as a call of a function."""

    def __init__(self, *call: object) -> None:
        self.call = call

    def __reduce__(self) -> tuple[object, ...]:
        return self.call[0], self.call[1:]


def rewrite(archive: Path, change: Callable[[bytes], bytes], name: str = "data.pkl") -> Path:
    """The archive with another content of one file."""
    changed = archive.with_name(f"changed-{archive.name}")
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(changed, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            content = old.read(entry)
            new.writestr(entry.filename, change(content) if entry.filename.endswith(f"/{name}") else content)
    return changed


def tensor(count: object, offset: object, shape: object, strides: object) -> Callable[[bytes], bytes]:
    """A pickle whose only parameter is a tensor described so, over the values in file 0."""

    def change(_: bytes) -> bytes:
        storage = ("storage", "FloatStorage", "0", "cpu", count)
        parts = [
            b"\x80\x02c__torch__\nOnly\n)\x81}X\x06\x00\x00\x00weightctorch._utils\n_rebuild_tensor_v2\n("
        ]
        parts += [pickle.dumps(storage, 2)[2:-1], b"Q"]
        parts += [pickle.dumps(value, 2)[2:-1] for value in (offset, shape, strides, False, None)]
        return b"".join([*parts, b"tRsb."])

    return change


class Only(nn.Module):
    """Six values."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.arange(6.0))

    def forward(self, x):
        return x


@pytest.fixture
def only(tmp_path: Path) -> Path:
    """An archive whose one class is `__torch__.Only`, with a pickle written by hand."""
    saved = save(Only(), tmp_path / "only.pt")
    with zipfile.ZipFile(saved) as old:
        (code,) = (name for name in old.namelist() if name.endswith("test_torchscript.py"))
        top = tmp_path / "top.pt"
        with zipfile.ZipFile(top, "w") as new:
            for entry in old.infolist():
                name = "only/code/__torch__.py" if entry.filename == code else entry.filename
                new.writestr(name, old.read(entry))
    return rewrite(top, tensor(6, 1, (2, 2), (3, 1)))


def test_the_crafted_archive_is_read_where_it_is_right(only: Path) -> None:
    found = read_torchscript(only)
    assert found["weight"].tolist() == [[1, 2], [4, 5]]


@pytest.mark.parametrize(
    ("described", "message"),
    [
        ((6, 1, (6,), (1,)), "reaches past its 6 values"),
        ((6, 0, (2, 2), (5, 1)), "reaches past its 6 values"),
        ((6, 7, (0,), (1,)), "reaches past its 6 values"),
        ((6, -1, (2,), (1,)), r"shape \(2,\) and strides \(1,\)"),
        ((6, 0, (2,), (-1,)), "strides"),
        ((6, 0, (2, 2), (1,)), "strides"),
        ((6, 0, ("2",), (1,)), "strides"),
        ((2**40, 0, (2**40,), (1,)), "1099511627776 values in 24 bytes"),
        ((7, 0, (7,), (1,)), "7 values in 24 bytes"),
        ((6, 0, (2**30, 2**30), (0, 0)), "larger than the file"),
    ],
)
def test_tensors_that_are_none(only: Path, described: tuple[object, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_torchscript(rewrite(only, tensor(*described)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps(Call(print, "executed"), 2), "it holds __builtin__.print"),
        (pickle.dumps(Call(torch.from_file, "x", True, 4), 2), "more than tensors"),
        (pickle.dumps({"weight": 1}, 2), "it holds dict, expected a module"),
        (b"\x80\x02i__torch__\nOnly\n.", "105"),  # an opcode that TorchScript does not write
        (b"\x80\x05\x96" + (2**62).to_bytes(8, "little") + b".", "150"),  # makes room for 4 EiB
        (b"\x80\x02c__torch__\nNone\n)\x81q\x00}X\x01\x00\x00\x00ah\x00sb.", "hold each other without end"),
        (b"\x80\x02", "refused"),
        (b"", "refused"),
    ],
)
def test_pickles_that_are_refused(
    only: Path, content: bytes, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match=message):
        read_torchscript(rewrite(only, lambda _: content))
    assert capsys.readouterr().out == ""


def test_archives_that_are_refused(only: Path, tmp_path: Path) -> None:
    bomb = rewrite(only, lambda _: bytes(2**27), "__torch__.py")
    assert bomb.stat().st_size < 2**20
    with pytest.raises(UserError, match="unpacks to far more than its size"):
        read_torchscript(bomb)
    with zipfile.ZipFile(only) as old, zipfile.ZipFile(tmp_path / "less.pt", "w") as new:
        for name in old.namelist():
            if name != "only/data/0":
                new.writestr(name, old.read(name))
    with pytest.raises(UserError, match="no item named 'only/data/0'"):
        read_torchscript(tmp_path / "less.pt")


def test_plain_files_are_none(only: Path, tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(2)}, tmp_path / "plain.pt")
    (tmp_path / "junk.pt").write_bytes(b"junk")
    assert is_torchscript(only)
    assert not is_torchscript(tmp_path / "plain.pt")
    assert not is_torchscript(tmp_path / "junk.pt")
