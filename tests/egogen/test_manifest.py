"""A folder remembers what made it and refuses to be mixed."""

from pathlib import Path
from typing import Any

import pytest

from egogen.errors import UserError
from egogen.files import write_json
from egogen.manifest import begun, checkpoint_hash, claim, file_hash

SETTINGS = {"checkpoint": "ab12", "seed": 0, "size": (64, 114), "scale": 7.5, "key": None}


def test_the_same_settings_go_on(tmp_path: Path) -> None:
    claim(tmp_path / "new", SETTINGS)
    before = (tmp_path / "new/manifest.json").read_bytes()
    claim(tmp_path / "new", dict(reversed(SETTINGS.items())))
    assert (tmp_path / "new/manifest.json").read_bytes() == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, r"made with seed = 0, this run has 1; choose another"),
        ({"checkpoint": "cd34"}, r"made with checkpoint = 'ab12'"),
        ({"size": (64, 64)}, r"made with size = \[64, 114\], this run has \[64, 64\]"),
        ({"new": 3}, r"made with new = None, this run has 3"),
    ],
)
def test_other_settings_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    claim(tmp_path, SETTINGS)
    with pytest.raises(UserError, match=message):
        claim(tmp_path, {**SETTINGS, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 50}, "made with sampling.steps = 16, this run has 50; choose"),
        (
            {"steps": 50, "guide": {"txt": 2, "img": 1}},
            "sampling.steps = 16, this run has 50 and sampling.guide.txt = 1, this run has 2; choose",
        ),
        ({str(number): 1 for number in range(9)}, "sampling.2 = None, this run has 1 and 6 more; choose"),
        ({"none": None}, "made with sampling of another form; choose"),
    ],
)
def test_of_settings_in_settings_those_that_differ_are_told(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    sampling = {"scheduler": "ddim", "steps": 16, "guide": {"txt": 1, "img": 1}}
    claim(tmp_path, {"sampling": sampling})
    with pytest.raises(UserError, match=message):
        claim(tmp_path, {"sampling": {**sampling, **change}})


def test_a_setting_that_went_away_is_refused(tmp_path: Path) -> None:
    claim(tmp_path, SETTINGS)
    with pytest.raises(UserError, match="seed = 0, this run has None"):
        claim(tmp_path, {key: value for key, value in SETTINGS.items() if key != "seed"})


def test_settings_are_compared_before_a_folder_is_claimed(tmp_path: Path) -> None:
    assert not begun(tmp_path, {"a": 1})
    assert not list(tmp_path.iterdir())
    claim(tmp_path, {"a": 1})
    assert begun(tmp_path, {"a": 1})
    with pytest.raises(UserError, match="a = 1, this run has 2"):
        begun(tmp_path, {"a": 2})


def test_one_folder_may_hold_several_manifests(tmp_path: Path) -> None:
    claim(tmp_path, {"a": 1}, "text.json")
    claim(tmp_path, {"a": 2}, "image.json")
    claim(tmp_path, {"a": 1}, "text.json")


def test_a_damaged_manifest_is_named(tmp_path: Path) -> None:
    write_json(tmp_path / "manifest.json", ["a"])
    with pytest.raises(UserError, match=r"manifest\.json: found list"):
        claim(tmp_path, {"a": 1})


def test_file_hash_is_sha256(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"abc")
    # FIPS 180-2, appendix B.1.
    assert file_hash(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert checkpoint_hash(path) == file_hash(path)


def test_a_folder_of_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    first = checkpoint_hash(tmp_path)
    (tmp_path / "notes.txt").write_text("of no account")
    (tmp_path / "checkpoint-10").mkdir()
    (tmp_path / "checkpoint-10/model.safetensors").write_bytes(b"on the way")
    assert checkpoint_hash(tmp_path) == first
    (tmp_path / "model.safetensors").rename(tmp_path / "other.safetensors")
    second = checkpoint_hash(tmp_path)
    (tmp_path / "other.safetensors").write_bytes(b"WEIGHTS")
    assert len({first, second, checkpoint_hash(tmp_path)}) == 3


def test_a_diffusers_folder_counts_its_parts(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text("{}")
    weights = tmp_path / "unet/diffusion_pytorch_model.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(b"one")
    first = checkpoint_hash(tmp_path)
    weights.write_bytes(b"two")
    assert checkpoint_hash(tmp_path) != first


@pytest.mark.parametrize("index", ["model_index.json", "config.json"])
def test_hidden_files_are_no_part_of_a_checkpoint(tmp_path: Path, index: str) -> None:
    (tmp_path / index).write_text("{}")
    first = checkpoint_hash(tmp_path)
    (tmp_path / f"._{index}").write_bytes(b"\0\5\x16\7")
    assert checkpoint_hash(tmp_path) == first


def test_no_checkpoint_is_named(tmp_path: Path) -> None:
    (tmp_path / "readme.txt").touch()
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(UserError, match="no checkpoint here"):
            checkpoint_hash(path)


def test_a_part_behind_a_link_counts(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk/model.safetensors").write_bytes(b"one")
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "pipeline/model_index.json").write_text("{}")
    without = checkpoint_hash(tmp_path / "pipeline")
    (tmp_path / "pipeline/unet").symlink_to(tmp_path / "disk")
    linked = checkpoint_hash(tmp_path / "pipeline")
    (tmp_path / "disk/model.safetensors").write_bytes(b"two")
    assert len({without, linked, checkpoint_hash(tmp_path / "pipeline")}) == 3
