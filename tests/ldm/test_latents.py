"""Latents on disk are what the networks give: plain and mirrored, of these inputs and no others."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from ldm.checkpoints.source import load_parts
from ldm.conditioner import embed
from ldm.config.merge import load_config
from ldm.config.sections import TrainConfig
from ldm.data.latents import ARRAYS, CachedLatents, build_cache, is_built
from ldm.data.pairs import SplitFiles
from ldm.networks.architecture import Parts
from ldm.networks.pixels import to_model
from ldm.networks.text import make_tokenizer
from tests.ldm.toy_run import Run, make_run

Encode = Callable[..., Path]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def parts(run: Run) -> Parts:
    return load_parts(run.start)


@pytest.fixture
def encode(run: Run, parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Encode:
    monkeypatch.setenv("RUN_ROOT", str(tmp_path))

    def made(*words: str, split: str = "val") -> Path:
        config = load_config(TrainConfig, [], [*run.words(), *words])
        return build_cache(SplitFiles(config.data, split), parts, make_tokenizer(), run.start)

    return made


@torch.no_grad()
def test_what_is_kept_is_what_the_networks_give(run: Run, parts: Parts, encode: Encode) -> None:
    """Witness: VAE and text encoder, called here; the cache rounds to float16."""
    files = SplitFiles(load_config(TrainConfig, [], run.words()).data, "train")
    found, row = CachedLatents(encode("data.flip=0.5", split="train")), 2
    action = files.items[row].action
    for mirrored in (False, True):
        source, target = (
            to_model(files.frames.read(name), 32)[None].flip(-1 if mirrored else ())
            for name in (action.image_0, action.image_1)
        )
        posterior = parts.vae.encode(target).latent_dist
        wanted = {
            "source_latent": parts.vae.encode(source).latent_dist.mode()[0],
            "target_moments": torch.cat([posterior.mean, posterior.std], dim=1)[0],
            "text": embed(parts.text_encoder, make_tokenizer(), [files.prompt(files.items[row])])[0],
        }
        kept = found(row, mirrored)
        assert kept.keys() == wanted.keys()
        for name, value in wanted.items():
            torch.testing.assert_close(kept[name], value, rtol=2e-3, atol=2e-3, msg=f"{name} {mirrored}")
    assert not torch.equal(found(row, False)["source_latent"], found(row, True)["source_latent"])


@pytest.mark.parametrize("target", ["disk", "gone"])
def test_a_damaged_cache_behind_a_link_is_built_anew(encode: Encode, tmp_path: Path, target: str) -> None:
    """What the link leads to stays; the cache takes the link's place."""
    folder = encode()
    folder.rename(tmp_path / "disk")
    (tmp_path / "disk/text.npy").unlink()
    folder.symlink_to(tmp_path / target)
    assert encode() == folder
    assert not folder.is_symlink()
    assert is_built(folder, len(np.load(folder / "text.npy")))
    assert (tmp_path / "disk/source_latent.npy").exists()


def test_other_inputs_have_a_cache_of_their_own(encode: Encode) -> None:
    one = encode()
    before = {name: (one / f"{name}.npy").stat().st_mtime_ns for name in ARRAYS}
    assert encode() == one
    assert encode("data.flip=0.5") == one  # val is never mirrored
    folders = [encode("data.resolution=16"), encode("data.text_key=action"), encode(split="train")]
    assert len({one, *folders}) == 4
    assert (
        np.load(folders[0] / "source_latent.npy").shape[-1] * 2
        == np.load(one / "source_latent.npy").shape[-1]
    )
    assert {name: (one / f"{name}.npy").stat().st_mtime_ns for name in ARRAYS} == before


@pytest.mark.parametrize("damage", ["cut", "fewer pairs", "more pairs", "no manifest"])
def test_a_damaged_cache_is_built_anew(encode: Encode, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    folder = encode()
    path = folder / "text.npy"
    whole = path.read_bytes()
    if damage == "cut":
        os.truncate(path, len(whole) - 10)
    elif damage == "no manifest":
        (folder / "manifest.json").unlink()
    else:
        rows = np.load(path)
        np.save(path, rows[:-1] if damage == "fewer pairs" else np.concatenate([rows, rows]))
    assert encode() == folder
    assert f"{folder}: damaged; it is built anew" in caplog.text
    assert path.read_bytes() == whole
