"""The toy start's manifest: sealed, verified, listed; every kind of damage is named."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from egogen import asset_manifest
from egogen.assets import main, place
from egogen.errors import UserError
from egogen.files import read_json, write_json
from egogen.toy.world import write_world


@pytest.fixture
def start(tmp_path: Path) -> Path:
    """A sealed toy start of two files."""
    write_world(tmp_path / "data", 2, 1, size=32, workers=1)
    folder = tmp_path / "start"
    (folder / "llava").mkdir(parents=True)
    (folder / "a.safetensors").write_bytes(b"weights")
    (folder / "llava" / "config.json").write_text("{}")
    (folder / "README.md").write_text("what this is")
    write_json(tmp_path / "lego" / "metric.json", {"toy_success": 0.8})
    logged = [{"step": 10 * step, "loss": 9.5 - step, "epoch": 0.1} for step in range(1, 9)]
    write_json(tmp_path / "state.json", {"log_history": [*logged, {"step": 80, "train_loss": 1.0}]})
    scores, losses = f"lego={tmp_path / 'lego' / 'metric.json'}", tmp_path / "state.json"
    words = ["--folder", folder, "--seal", tmp_path / "data", "--scores", scores, "--losses", losses]
    main(list(map(str, words)))
    return folder


def test_a_sealed_start_is_verified_and_listed(start: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--folder", str(start), "--verify"])
    assert capsys.readouterr().out == "2 files are as the manifest says\n"
    manifest = read_json(start / "manifest.json")
    assert manifest["files"]["a.safetensors"] == {
        "bytes": 7,
        "sha256": hashlib.sha256(b"weights").hexdigest(),
    }
    assert manifest["losses"] == {"10": 8.5, "20": 7.5, "30": 6.5, "40": 5.5, "50": 4.5}
    assert manifest["scores"] == {"lego": {"toy_success": 0.8}}
    assert manifest["data"]["train"] == 2
    assert len(manifest["data"]["sha256"]) == 64
    main(["--folder", str(start)])
    listed = capsys.readouterr().out
    assert "llava/config.json" in listed
    assert "toy_success" in listed


def test_losses_are_those_of_a_training(start: Path, tmp_path: Path) -> None:
    write_json(tmp_path / "state.json", {"log_history": [{"step": 1, "train_loss": 1.0}]})
    words = ["--folder", start, "--seal", tmp_path / "data", "--losses", tmp_path / "state.json"]
    with pytest.raises(UserError, match=r"state.json: log_history: .*loss"):
        main(list(map(str, words)))


@pytest.mark.parametrize("scores", ["lego", "=metric.json", "lego="])
def test_scores_have_names(start: Path, tmp_path: Path, scores: str) -> None:
    words = ["--folder", str(start), "--seal", str(tmp_path / "data"), "--scores", scores]
    with pytest.raises(UserError, match="expected NAME=FILE"):
        main(words)


def test_a_part_is_found_by_its_name(start: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--folder", str(start), "--path", "llava"])
    assert capsys.readouterr().out == f"{start / 'llava'}\n"
    with pytest.raises(
        UserError, match=r"no such part of the toy start; in .* there is README.md, a.safeten"
    ):
        place("lego", start)


def test_the_data_hash_is_of_the_world(start: Path, tmp_path: Path) -> None:
    write_world(tmp_path / "same", 2, 1, size=32, workers=1)
    write_world(tmp_path / "other", 2, 1, size=32, seed=1, workers=1)
    wanted = read_json(start / "manifest.json")["data"]
    assert asset_manifest.data_facts(tmp_path / "same") == wanted
    assert asset_manifest.data_facts(tmp_path / "other")["sha256"] != wanted["sha256"]


def test_damage_is_named(start: Path) -> None:
    words = ["--folder", str(start), "--verify"]
    (start / "b.safetensors").touch()
    with pytest.raises(UserError, match=r"b.safetensors: unknown to the manifest"):
        main(words)
    (start / "a.safetensors").write_bytes(b"Weights")
    with pytest.raises(UserError, match=r"a.safetensors: is not the file of the manifest"):
        main(words)
    (start / "a.safetensors").unlink()
    with pytest.raises(UserError, match=r"a.safetensors: missing; the manifest lists it"):
        main(words)
    (start / "manifest.json").unlink()
    with pytest.raises(UserError, match=r"manifest.json: missing; bash scripts/make_toy_assets.sh makes"):
        main(words)


def test_too_much_is_not_sealed(start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asset_manifest, "MOST_BYTES", 8)
    with pytest.raises(UserError, match=r"holds 9 bytes of weights; expected 1 to 8"):
        main(["--folder", str(start), "--seal", str(tmp_path / "data")])


def test_a_manifest_of_nothing_is_no_proof(start: Path) -> None:
    write_json(start / "manifest.json", {**read_json(start / "manifest.json"), "files": {}})
    with pytest.raises(UserError, match=r"manifest.json: lists no files"):
        main(["--folder", str(start), "--verify"])
