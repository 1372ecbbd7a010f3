"""Stage 2's examples of `docs/python.md`, run on the toy start, against the stock one and closed forms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from egogen.features import write_feature
from tests.python_page import MOST_LINES, blocks, run_blocks, write_photos


def test_blocks_are_short() -> None:
    for stage, count in ((1, 2), (2, 7)):
        assert len(blocks(stage)) == count
        assert all(len(block.strip().splitlines()) <= MOST_LINES for block in blocks(stage))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """All names of the blocks, after features that stage 1 would have written."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("page"))
        here = Path.cwd()
        write_photos(here)
        rng = np.random.default_rng(0)
        for name, tokens in (("image", 256), ("text", 9)):
            write_feature(here / f"{name}.npy", rng.normal(size=(tokens, 128)).astype(np.float32))
        (here / "description.txt").write_text("The right hand opens the cyan book.")
        return run_blocks(2) | {"here": here}


def test_they_draw(made: dict[str, Any]) -> None:
    assert Image.open(made["here"] / "action.png").size == Image.open(made["here"] / "photo.jpg").size
    assert [frame.size for frame in made["frames"]] == [(64, 64)] * 2
    assert len(made["two"]) == 2
    assert made["image_features"].shape[1:] == (256, 128)
    assert made["text_features"].shape[1:] == (77, 128)
    assert not made["text_features"][0, 9:].any()


def test_what_is_saved_is_loaded(made: dict[str, Any]) -> None:
    full, again = made["full"], made["again"]
    assert (full.unet.dtype, again.unet.dtype) == (torch.bfloat16, torch.float32)
    for ours, theirs in zip(full.unet.parameters(), again.unet.parameters(), strict=True):
        assert theirs.equal(ours.float())


def test_the_stock_pipeline_draws_what_lego_draws(made: dict[str, Any]) -> None:
    """Its Euler ancestral interpolates sigma linearly; with the same one LEGO's frame is its, to rounding."""
    stock, again = made["stock"], made["again"]
    again.scheduler = type(stock.scheduler).from_config(stock.scheduler.config)
    photo, given = made["photo"].resize((64, 64)), made["given"]
    seeds = [torch.Generator().manual_seed(1) for _ in range(2)]
    theirs = stock(image=photo, **given, **made["mild"], generator=seeds[0], output_type="np").images
    features = made["image_features"], made["text_features"]
    ours = again(photo, made["text"], *features, **made["mild"], generator=seeds[1], output_type="np").images
    np.testing.assert_allclose(ours, theirs, atol=1e-3)


def test_scores_are_by_definition(made: dict[str, Any]) -> None:
    error = (made["drawn"] - made["target"]).square().mean()
    assert float(made["psnr"].score(made["drawn"], made["target"])) == pytest.approx(
        -10 * float(error.log10())
    )
