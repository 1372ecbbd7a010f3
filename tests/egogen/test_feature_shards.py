"""Shards of features: random access from workers, 8 bits, what is damaged or mixed; projectors in files."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors.torch import save_file

from egogen.errors import UserError
from egogen.features.difference import Difference
from egogen.features.feature_shards import Shards, read_difference, write_shard
from egogen.features.projector import Projector, read_projector
from egogen.features.rows import dequantize, quantize
from egogen.features.store import check_form, check_same_maker, claim_store, form_of, made_by
from egogen.files import write_json
from egogen.layout import projector_path, shard_path, shard_paths
from tests.feature_store import NAMES, WIDTH, projector, text


def make(folder: Path, row_type: str = "float16", per_shard: int = 4) -> Path:
    """Text features in shards."""
    claim_store(folder, {"seed": 1}, "shards", row_type)  # type: ignore[arg-type]
    for number, first in enumerate(range(0, len(NAMES), per_shard)):
        part = {name: text(name) for name in NAMES[first : first + per_shard]}
        write_shard(shard_path(folder, "p", number), part, made_by(folder), row_type)  # type: ignore[arg-type]
    return folder


def test_what_is_written_is_read_in_any_order(tmp_path: Path) -> None:
    shards = Shards(make(tmp_path))
    assert shards.names == sorted(NAMES)
    assert len(shard_paths(tmp_path)) == 3
    for name in (*reversed(NAMES), *NAMES):
        assert np.array_equal(shards.read(name), text(name))
        assert np.array_equal(shards.read_checked(name), text(name))
        assert shards.outline(name).shape == text(name).shape
    assert "clip_0/0/x.npy" in shards
    assert "clip_0/0/y.npy" not in shards


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_read_what_one_process_reads(tmp_path: Path, method: str) -> None:
    shards = Shards(make(tmp_path))
    for name in NAMES:
        shards.read(name)  # files are mapped before the workers are made
    with multiprocessing.get_context(method).Pool(3) as pool:
        found = pool.map(shards.read, NAMES * 5, chunksize=1)
    assert all(np.array_equal(values, text(name)) for name, values in zip(NAMES * 5, found, strict=True))
    assert pickle.loads(pickle.dumps(shards)).handles == {}


@settings(deadline=None)
@given(
    values=arrays.arrays(
        np.float32, (3, 5), elements=st.floats(-60000, 60000, width=32, allow_subnormal=False)
    )
)
def test_8_bits_err_by_half_a_scale_at_most(values: np.ndarray) -> None:
    rows, scale = quantize(values)
    error = np.abs(dequantize(rows, scale) - values).max(axis=1)
    assert (error <= np.abs(values).max(axis=1) / 254 * (1 + 1e-4) + 1e-30).all()


def test_8_bits_in_shards(tmp_path: Path) -> None:
    shards = Shards(make(tmp_path, "int8"))
    total = sum((read_difference(path) for path in shard_paths(tmp_path)), Difference())
    errors = [Difference.of(shards.read_checked(name), text(name)) for name in NAMES]
    assert total.largest == max(error.largest for error in errors)
    assert total.mean == pytest.approx(sum((error for error in errors), Difference()).mean)
    assert 0 < total.relative < 0.01
    for name in NAMES:
        bound = np.abs(text(name).astype(np.float32)).max(axis=1, keepdims=True) / 254
        assert (np.abs(shards.read(name) - text(name)) <= bound * 1.001).all()
    half, eight = (sum(path.stat().st_size for path in shard_paths(folder)) for folder in (
        make(tmp_path / "half"), tmp_path))  # fmt: skip
    assert eight < 0.7 * half


def test_a_feature_that_is_no_number_is_not_written(tmp_path: Path) -> None:
    claim_store(tmp_path, {}, "shards", "float16")
    with pytest.raises(
        ValueError, match=r"p-00000\.safetensors: a: a feature holds values that are not finite"
    ):
        write_shard(shard_path(tmp_path, "p", 0), {"a": np.full((2, 3), np.nan)}, made_by(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


def test_a_feature_that_is_in_two_shards_is_taken_from_the_later(tmp_path: Path) -> None:
    make(tmp_path)
    write_shard(shard_path(tmp_path, "p", 9), {NAMES[0]: text(NAMES[5])}, made_by(tmp_path))
    assert np.array_equal(Shards(tmp_path).read(NAMES[0]), text(NAMES[5]))


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 7)


def garble(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[9] = 0xFF
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [cut, garble, lambda path: path.write_bytes(b"")])
def test_damaged_shards_are_named(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    for path in shard_paths(make(tmp_path))[1:]:
        damage(path)
    with pytest.raises(UserError, match=r"p-00001\.safetensors: damaged shard .*delete it.*and 1 more"):
        Shards(tmp_path)
    assert len(Shards(tmp_path, tolerant=True).names) == 4


def test_changed_bytes_are_found_by_the_checksum(tmp_path: Path) -> None:
    path = shard_paths(make(tmp_path))[0]
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    shards = Shards(tmp_path)
    named = []
    for name in NAMES:
        try:
            shards.read_checked(name)
        except UserError as error:
            named.append(str(error))
    (error,) = named
    assert "p-00000.safetensors: damaged shard (the bytes of 'clip_2/2/x.npy' have changed)" in error


def test_missing_features_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no shard holds the feature 'b/x\.npy'; run the step"):
        Shards(make(tmp_path)).read("b/x.npy")


def test_shards_of_another_run_or_projector_are_refused(tmp_path: Path) -> None:
    one, other = make(tmp_path / "one"), tmp_path / "other"
    claim_store(other, {"seed": 2}, "shards", "float16")
    shard_paths(one)[0].rename(shard_path(other, "q", 0))
    with pytest.raises(
        UserError, match=r"q-00000\.safetensors: not made with the manifest\.json and projector"
    ):
        Shards(other)
    projector().write(projector_path(one))
    with pytest.raises(UserError, match=r"p-00001\.safetensors: not made with .* \(and 1 more such shards\)"):
        Shards(one)


def test_other_forms_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none: no such folder of features; make it by llava"):
        Shards(tmp_path / "none")
    with pytest.raises(
        UserError, match=r"form 'npy', expected 'shards'; set features\.store=npy, or make it"
    ):
        Shards(tmp_path)
    make(tmp_path / "text")
    with pytest.raises(UserError, match=r"form 'shards', expected 'npy'; set features\.store=compact"):
        check_form(tmp_path / "text", "npy")
    with pytest.raises(UserError, match=r"made with form = 'shards', this run has None"):
        claim_store(tmp_path / "text", {"seed": 1, "row_type": "float16"}, "npy")
    write_json(tmp_path / "manifest.json", {"form": "parquet"})
    with pytest.raises(
        UserError, match=r"form 'parquet', expected 'shards'; allowed are npy, shards, online"
    ):
        Shards(tmp_path)
    write_json(tmp_path / "manifest.json", {"form": "shards", "row_type": "int4"})
    with pytest.raises(UserError, match=r"row_type is 'int4', allowed are float16, int8"):
        Shards(tmp_path)


def test_features_of_two_checkpoints_are_not_mixed(tmp_path: Path) -> None:
    one, other, silent = (tmp_path / name for name in ("one", "other", "silent"))
    claim_store(one, {"checkpoint": "ab12"}, "npy")
    claim_store(other, {"checkpoint": "cd34"}, "shards", "int8")
    assert (form_of(one), form_of(other), form_of(silent)) == ("npy", "shards", "npy")
    check_same_maker(one, silent)
    check_same_maker(silent, other)
    with pytest.raises(UserError, match=r"other: text features of checkpoint cd34, but .*one are of ab12"):
        check_same_maker(one, other)


WEIGHT = torch.from_numpy(projector().weight)
BIAS = torch.from_numpy(projector().bias)


@pytest.mark.parametrize("kind", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("names", ["{}", "model.mm_projector.{}", "multi_modal_projector.{}"])
@pytest.mark.parametrize("suffix", [".bin", ".safetensors"])
def test_projectors_are_read_from_weight_files(
    tmp_path: Path, kind: torch.dtype, names: str, suffix: str
) -> None:
    tensors = {names.format("weight"): WEIGHT.to(kind), names.format("bias"): BIAS.to(kind)}
    if names != "{}":
        tensors["model.norm.weight"] = torch.arange(4)
    (torch.save if suffix == ".bin" else save_file)(tensors, tmp_path / f"x{suffix}")
    for path in (tmp_path / f"x{suffix}", tmp_path):
        found = read_projector(path)
        assert np.array_equal(found.weight, WEIGHT.to(kind).float().numpy())
        assert np.array_equal(found.bias, BIAS.to(kind).float().numpy())


def test_projectors_from_npz_and_from_views(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", weight=WEIGHT.numpy(), bias=BIAS.numpy())
    assert np.array_equal(read_projector(tmp_path / "x.npz").weight, WEIGHT.numpy())
    wide = torch.cat([torch.zeros(3, WIDTH), WEIGHT.T])
    torch.save({"weight": wide[3:].T, "bias": torch.nn.Parameter(BIAS)}, tmp_path / "x.bin")
    assert np.array_equal(read_projector(tmp_path / "x.bin").weight, WEIGHT.numpy())


def write_bad(path: Path, kind: str) -> None:
    plain = {"mm_projector.weight": WEIGHT, "mm_projector.bias": BIAS}
    if kind == "code":
        torch.save({**plain, "hook": print}, path)
    elif kind == "legacy":
        torch.save(plain, path, _use_new_zipfile_serialization=False)
    elif kind == "whole numbers":
        torch.save({name: value.int() for name, value in plain.items()}, path)
    elif kind == "list":
        torch.save([WEIGHT], path)
    elif kind == "two layers":
        torch.save(
            {f"mm_projector.{at}.{part}": WEIGHT for at in (0, 2) for part in ("weight", "bias")}, path
        )
    elif kind == "other":
        torch.save({"lm_head.weight": WEIGHT}, path)
    elif kind == "turned":
        torch.save({"weight": WEIGHT.T, "bias": BIAS}, path)
    elif kind == "cut":
        torch.save(plain, path)
        cut(path)
    elif kind == "text":
        path.write_text("weights")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("code", "it holds print, more than tensors"),
        ("legacy", "not a readable file of weights"),
        ("whole numbers", "expected floating point"),
        ("list", "it holds list, expected tensors by name"),
        ("two layers", r"found mm_projector\.0\.weight, mm_projector\.2\.weight, expected one Linear"),
        ("other", "found no such weights, expected one Linear"),
        ("turned", r"weight is \(10, 24\) and its bias \(24,\), expected finite values of shapes \(d, v\)"),
        ("cut", "not a readable file of weights"),
        ("text", "not a readable file of weights"),
        ("none", "no such file or folder"),
    ],
)
def test_what_is_no_projector_is_named(tmp_path: Path, kind: str, message: str) -> None:
    path = tmp_path / "x.bin"
    write_bad(path, kind)
    with pytest.raises(UserError, match=rf"x\.bin: .*{message}") as caught:
        read_projector(path)
    assert "\n" not in str(caught.value)


def test_without_torch_its_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"weight": WEIGHT, "bias": BIAS}, tmp_path / "x.bin")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UserError, match=r"x\.bin: needs torch, which this environment lacks"):
        read_projector(tmp_path / "x.bin")


def test_other_files_and_empty_folders_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.txt").touch()
    for path in (tmp_path, tmp_path / "x.txt"):
        with pytest.raises(
            UserError, match=r"exists, but .*expected weights in \.safetensors, \.bin or \.npz"
        ):
            read_projector(path)


def test_another_projector_is_not_written_over(tmp_path: Path) -> None:
    path = tmp_path / "projector.safetensors"
    projector().write(path)
    projector().write(path)
    with pytest.raises(UserError, match=r"projector\.safetensors: another projector than this run's"):
        projector(seed=1).write(path)


def test_a_projector_without_full_rank_gives_its_features_back() -> None:
    weight = projector().weight.copy()
    weight[:, -1] = weight[:, 0]
    bent = Projector(weight, projector().bias)
    features = bent.features(np.random.default_rng(0).normal(size=(7, 10))).astype(np.float16)
    assert bent.recover(features)[1].relative < 5e-4


def test_differences_of_parts_add_up() -> None:
    one, other = np.random.default_rng(0).normal(size=(2, 6, 4))
    whole = Difference.of(one, other)
    parts = Difference.of(one[:2], other[:2]) + Difference.of(one[2:], other[2:])
    assert json.loads(json.dumps(parts.__dict__)) == pytest.approx(whole.__dict__)
    assert whole.largest == pytest.approx(np.abs(one - other).max())
    assert whole.mean == pytest.approx(np.abs(one - other).mean())
    assert whole.relative == pytest.approx(np.linalg.norm(one - other) / np.linalg.norm(other))
