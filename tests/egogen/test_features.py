"""Feature files: our shapes, the published variants, damaged files."""

import gc
import io
import time
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from egogen.errors import UserError
from egogen.features import fit_tokens, read_image_feature, read_text_feature, write_feature
from egogen.features.__main__ import main
from egogen.features.npy import NpyFiles, load, mapped
from egogen.features.weight_files import weight_files
from egogen.layout import shard_paths


def numbers(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float16)


def save(folder: Path, values: np.ndarray) -> Path:
    path = folder / "x.npy"
    np.save(path, values)
    return path


def npy(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def test_what_is_written_is_read(tmp_path: Path) -> None:
    image, text = tmp_path / "deep/er/image.npy", tmp_path / "text.npy"
    write_feature(image, numbers(256, 8).astype(np.float64))
    write_feature(text, numbers(5, 8))
    assert np.array_equal(read_image_feature(image, 8), numbers(256, 8))  # exact: float16 both ways
    assert np.array_equal(read_text_feature(text), numbers(5, 8))
    assert read_image_feature(image).dtype == np.load(image).dtype == np.float16
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", "text.npy"]  # no temporary files left


@pytest.mark.parametrize(
    "values", [numbers(8), numbers(2, 2, 8), np.full((2, 8), np.nan), np.full((2, 8), 7e4)]
)
def test_what_cannot_be_read_again_is_not_written(tmp_path: Path, values: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"x\.npy: a feature"):
        write_feature(tmp_path / "x.npy", values)
    assert not list(tmp_path.iterdir())


def test_float32_files_are_read_as_float16(tmp_path: Path) -> None:
    values = read_text_feature(save(tmp_path, numbers(3, 8).astype(np.float32)))
    assert values.dtype == np.float16
    assert np.array_equal(values, numbers(3, 8))


def test_published_text_variants(tmp_path: Path) -> None:
    three = numbers(4, 3, 8)
    assert np.array_equal(read_text_feature(save(tmp_path, three)), three[:, -1])
    # One generated token: the published code squeezes the file to one dimension (F-S1-02).
    one = numbers(8)
    assert np.array_equal(read_text_feature(save(tmp_path, one), width=8), one[None])


@pytest.mark.parametrize("shape", [(), (8,), (0, 8), (4, 0, 8), (1, 2, 3, 8), (3, 7)])
def test_other_text_shapes_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    width = None if shape == (8,) else 8
    with pytest.raises(UserError, match=r"text features are \(.*expected \(tokens, .*describe step"):
        read_text_feature(save(tmp_path, numbers(*shape)), width)


@pytest.mark.parametrize("shape", [(255, 8), (257, 8), (1, 256, 8), (8,), (256, 7)])
def test_other_image_shapes_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match=r"image features are \(.*expected \(256, 8\)"):
        read_image_feature(save(tmp_path, numbers(*shape)), 8)


@pytest.mark.parametrize("values", [np.zeros((2, 8), int), np.array([["a"]]), np.zeros((2, 8), complex)])
def test_other_types_are_refused(tmp_path: Path, values: np.ndarray) -> None:
    with pytest.raises(UserError, match="expected floating point"):
        read_text_feature(save(tmp_path, values))


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e6])
def test_values_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    with pytest.raises(UserError, match="not finite"):
        read_text_feature(save(tmp_path, np.full((2, 8), value, np.float32)))


def test_missing_files_name_the_step_to_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"x\.npy: no such feature file; run the describe step"):
        read_text_feature(tmp_path / "x.npy")
    with pytest.raises(UserError, match="is a folder; expected a file"):
        read_text_feature(tmp_path)


def damaged() -> dict[str, bytes]:
    whole = npy(numbers(4, 8))
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("x", "y")
    return {
        "empty": b"",
        "cut header": whole[:20],
        "cut data": whole[:-1],
        "text": b"not an array",
        "zip": archive.getvalue(),
        "zip magic": b"PK\x03\x04 cut off",
        "open bracket": whole.replace(b"(4, 8)", b"(4, 8,"),
        "bad number": whole.replace(b"(4, 8)", b"(4,08)"),
        "huge": whole.replace(b"(4, 8), }        ", b"(10000000000000,)}"),
        "pickle": npy(np.array([{"a": 1}], object)),
    }


@pytest.mark.parametrize("kind", damaged())
def test_damaged_files_are_named(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.npy"
    path.write_bytes(damaged()[kind])
    with pytest.raises(UserError, match=r"x\.npy: not a readable \.npy file"):
        read_text_feature(path)


@settings(deadline=None)  # a loaded machine is no fault
@given(place=st.integers(0, 127), byte=st.integers(0, 255))
def test_a_changed_header_is_read_or_named(
    tmp_path_factory: pytest.TempPathFactory, place: int, byte: int
) -> None:
    path = tmp_path_factory.mktemp("features") / "x.npy"
    content = bytearray(npy(numbers(4, 8)))
    content[place] = byte
    path.write_bytes(content)
    with suppress(UserError):
        assert read_text_feature(path).ndim == 2


@pytest.mark.parametrize("tokens", [1, 76, 77, 78, 200])
def test_fit_tokens_cuts_or_pads_with_zeros(tokens: int) -> None:
    values = numbers(tokens, 4)
    fitted = fit_tokens(values)
    kept = min(tokens, 77)
    assert fitted.shape == (77, 4)
    assert fitted.dtype == np.float32
    assert np.array_equal(fitted[:kept], values[:kept])
    assert not fitted[kept:].any()


def test_what_macos_puts_beside_features_is_none(tmp_path: Path) -> None:
    write_feature(tmp_path / "a.npy", numbers(3, 8))
    (tmp_path / "._a.npy").write_bytes(b"\0\5\x16\7")
    assert NpyFiles(tmp_path).names == ["a.npy"]
    (tmp_path / "all-00000.safetensors").touch()
    (tmp_path / "._all-00000.safetensors").touch()
    assert shard_paths(tmp_path) == weight_files(tmp_path) == [tmp_path / "all-00000.safetensors"]


def test_features_behind_links_are_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "features/ego4d/val"
    for kind, values in (("llava_image", numbers(256, 8)), ("llava_text", numbers(3, 8))):
        write_feature(tmp_path / f"disk/{kind}/clip/0/a.npy", values)
        (place / kind).mkdir(parents=True)
        (place / kind / "clip").symlink_to(tmp_path / f"disk/{kind}/clip")
    main(["check", str(tmp_path / "features")])
    assert capsys.readouterr().out.count("1 features read") == 2
    (place / "llava_text/clip").unlink()
    with pytest.raises(UserError, match=r"1 problems, the first: .*llava_text: holds no features"):
        main(["check", str(tmp_path / "features")])
    (place / "llava_text/clip").symlink_to("gone")
    with pytest.raises(UserError, match="llava_text/clip: is a link to gone, which is not there"):
        main(["check", str(tmp_path / "features")])


@pytest.mark.parametrize("words", [["estimate", "--annotations"], ["check"], ["convert", "--to", "compact"]])
def test_nothing_to_do_is_said(tmp_path: Path, words: list[str]) -> None:
    (tmp_path / "empty.json").write_text("{}")
    (tmp_path / "llava_text").mkdir()
    given = [str(tmp_path / ("empty.json" if "estimate" in words else "llava_text"))]
    with pytest.raises(UserError, match="holds no"):
        main([*words, *given, *([str(tmp_path / "out")] if "convert" in words else [])])


class Garbage:
    """Collected as a cycle; its end lets another thread run."""

    def __init__(self) -> None:
        self.me = self

    def __del__(self) -> None:
        time.sleep(1e-6)


@pytest.mark.parametrize("read", [load, mapped])
def test_threads_read_while_garbage_is_collected(tmp_path: Path, read: Callable[[Path], np.ndarray]) -> None:
    """NumPy parses headers as Python, which two threads of Python 3.11.7 may not (cpython#106905)."""
    path = tmp_path / "feature.npy"
    write_feature(path, np.ones((4, 3), np.float32))

    def at_depth(depth: int) -> np.ndarray:
        if depth:
            return at_depth(depth - 1)
        for _ in range(20):
            Garbage()
        return read(path)

    before = gc.get_threshold()
    try:
        with ThreadPoolExecutor(8) as pool:
            for threshold in range(45, 105, 10):  # the collector stops each at another point of the parser
                gc.set_threshold(threshold)
                assert all(values.shape == (4, 3) for values in pool.map(at_depth, list(range(7)) * 4))
    finally:
        gc.set_threshold(*before)
