"""Stage 1's examples of `docs/python.md`, run on the toy start; files are read as stage 2 reads them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from egogen.features import fit_tokens, read_pair
from tests.python_page import run_blocks, write_photos


def test_they_describe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is read is what was made, to the half precision of files; padding is that of the files' reader."""
    monkeypatch.chdir(tmp_path)
    write_photos(tmp_path)
    made = run_blocks(1)["made"]
    image, text = read_pair(Path("image.npy"), Path("text.npy"))
    assert image.shape == (256, text.shape[1])
    np.testing.assert_allclose(image, made.image_features.numpy(), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(text, made.padded_text_features.numpy(), rtol=1e-3, atol=1e-4)
    assert np.array_equal(made.padded_text_features.numpy(), fit_tokens(made.text_features.numpy()))
    assert Path("description.txt").read_text() == made.text
    assert made.text.endswith(".")
