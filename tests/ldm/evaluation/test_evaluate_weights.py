"""`python -m ldm.evaluate` and weight files: missing, broken, of other models, not to be trusted."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ldm import evaluate
from ldm.metrics.feature_cache import Store
from ldm.metrics.networks import metric_weights as files
from tests.ldm.evaluation.conftest import make_scene
from tests.ldm.evaluation.failing import fails
from tests.ldm.evaluation.networks import blip
from tests.ldm.evaluation.recorded_run import flags, read, values


def all_but(weights: Path, name: str, root: Path) -> Path:
    """A folder with links to all weight files but one."""
    for path in weights.rglob("*"):
        if path.is_file() and path.name != name:
            link = root / path.relative_to(weights)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path)
    return root


def test_all_missing_weights_are_named_before_any_work(
    recorded: Path, run_folder: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = fails(evaluate.main, flags(recorded, run_folder, "ego4d", tmp_path / "nowhere"), capsys)
    for part in ("9 weight files missing", "egovlp.pth (724 MB", "ViT-L-14.pt (933 MB", "vocab.txt",
                 "model_large_caption.pth (1.9 GB", "bash scripts/download_metric_weights.sh",
                 "--metrics"):  # fmt: skip
        assert part in told
    assert "epic_mir_plus" not in told
    assert not (run_folder / "metric").exists()
    some = all_but(weights, "ViT-L-14.pt", tmp_path / "some")
    told = fails(evaluate.main, flags(recorded, run_folder, "ego4d", some), capsys)
    assert "1 weight file missing: ViT-L-14.pt" in told


def test_weights_come_from_the_environment(
    recorded: Path, run_folder: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEIGHTS_ROOT", str(weights))
    argv = flags(recorded, run_folder, "ego4d", weights, "--metrics", "lpips_alex")
    place = argv.index("--weights")
    evaluate.main(argv[:place] + argv[place + 2 :])
    assert set(read(run_folder / "metric" / "metric.json")) == {"lpips_alex"}


WRONG = {
    "another model": (
        "egovlp", "egovlp.pth", lambda w: torch.load(w / "ViT-L-14.pt"), "not the weights of EgoVLP",
    ),
    "another size": (
        "lpips_alex", "alexnet-owt-7be5be79.pth", lambda w: torch.load(w / "vgg16-397923af.pth"),
        "not the weights of LPIPS (alex): of 10 tensors 6 missing",
    ),
    "a shape": (
        "blip_base", "model_base_caption_capfilt_large.pth",
        lambda _: {"model": blip(2050) | {"visual_encoder.norm.bias": torch.zeros(7)}}, "1 of another shape",
    ),
    "of CLIP": (
        "clip", "ViT-L-14.pt", lambda w: torch.load(w / "egovlp.pth"), "not the weights of OpenAI CLIP",
    ),
    "no tensors": ("clip", "ViT-L-14.pt", lambda _: {"state_dict": {}}, "holds no weights"),
}  # fmt: skip


@pytest.mark.parametrize("fault", WRONG)
def test_wrong_weights(
    recorded: Path,
    run_folder: Path,
    weights: Path,
    tmp_path: Path,
    fault: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    metric, name, content, message = WRONG[fault]
    root = all_but(weights, name, tmp_path / "w")
    torch.save(content(weights), root / name)
    told = fails(evaluate.main, flags(recorded, run_folder, "ego4d", root, "--metrics", metric), capsys)
    assert f"{name}: " in told
    assert message in told
    assert not (run_folder / "metric").exists()


class Malicious:
    def __reduce__(self) -> Any:
        return os.system, ("echo executed",)


@pytest.mark.parametrize("name", ["egovlp.pth", "model_base_caption_capfilt_large.pth", "ViT-L-14.pt"])
def test_nothing_in_a_weight_file_is_executed(
    recorded: Path,
    run_folder: Path,
    weights: Path,
    tmp_path: Path,
    name: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    root = all_but(weights, name, tmp_path / "w")
    torch.save({"state_dict": {}, "config": Malicious()}, root / name)
    with pytest.raises(ValueError, match="refused, it holds more than tensors"):
        evaluate.main(flags(recorded, run_folder, "ego4d", root, "--metrics", "egovlp,clip,blip_base"))
    assert "executed" not in capfd.readouterr().out


def test_a_truncated_weight_file(
    recorded: Path, run_folder: Path, weights: Path, tmp_path: Path, capsys: Any
) -> None:
    root = all_but(weights, "ViT-L-14.pt", tmp_path / "w")
    (root / "ViT-L-14.pt").write_bytes((weights / "ViT-L-14.pt").read_bytes()[:-5000])
    told = fails(evaluate.main, flags(recorded, run_folder, "ego4d", root, "--metrics", "clip"), capsys)
    assert "ViT-L-14.pt: not a readable checkpoint, cut off perhaps" in told


def test_captions_need_texts(
    recorded: Path, run_folder: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = flags(recorded, run_folder, "ego4d", weights, "--metrics", "blip_base")
    told = fails(evaluate.main, [*argv, "--llava_key", "no_such_key"], capsys)
    assert "6 of 6 actions, clip0_00/00000_act first, have no text under 'no_such_key'" in told
    evaluate.main([*argv, "--llava_key", "action"])
    with_labels = values(run_folder)
    evaluate.main(argv)
    assert values(run_folder) != with_labels


def test_a_vocabulary_of_another_model(
    recorded: Path, run_folder: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = all_but(weights, "vocab.txt", tmp_path / "w")
    path, words = root / "vocab.txt", (weights / "distilbert-base-uncased/vocab.txt").read_text()
    argv = flags(recorded, run_folder, "ego4d", root, "--metrics", "blip_base")
    path.write_text(words + "\n".join(f"more{n}" for n in range(10)))
    assert "a vocabulary of 2058 words, expected that of distilbert-base-uncased with at most 2048" in fails(
        evaluate.main, argv, capsys
    )
    path.write_text("hello\nworld\n")
    assert "a vocabulary without [" in fails(evaluate.main, argv, capsys)


def test_a_distance_needs_two_frames(
    tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = make_scene(tmp_path, count=1).flags("--metrics", "fid", "--weights", str(weights))
    told = fails(evaluate.main, argv, capsys)
    assert "metric 'fid': 1 frame; it compares two sets, of at least 2 frames each" in told


@pytest.mark.parametrize("fault", ["missing", "truncated", "size"])
def test_frames_before_the_actions_are_checked(
    recorded: Path,
    run_folder: Path,
    weights: Path,
    tmp_path: Path,
    fault: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    val = tmp_path / "val"
    shutil.copytree(recorded / "EgoGen/ego4d.fho/val", val)
    path = val / "clip0_01/00002_act/001074.png"
    if fault == "missing":
        shutil.rmtree(path.parent)
    elif fault == "truncated":
        path.write_bytes(path.read_bytes()[:-300])
    else:
        Image.new("RGB", (300, 256)).save(path)
    argv = flags(recorded, run_folder, "ego4d", weights, "--metrics", "egovlp_plus", "--input_path", str(val))
    message = {
        "missing": "no frames here",
        "truncated": "not a whole image",
        "size": "300x256 pixels, its target",
    }
    assert message[fault] in fails(evaluate.main, argv, capsys)


def test_two_files_of_one_name(tmp_path: Path) -> None:
    """Equal copies are fine, different ones are not guessed between."""
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / files.VOCABULARY.name).write_text("x")
    (tmp_path / "c").symlink_to("a")
    assert files.locate(tmp_path, files.VOCABULARY) == tmp_path / "a" / "vocab.txt"
    assert files.locate(tmp_path / "c", files.VOCABULARY) == tmp_path / "a" / "vocab.txt"
    (tmp_path / "b" / "vocab.txt").write_text("y")
    with pytest.raises(ValueError, match=r"a/vocab\.txt and .*b/vocab\.txt have one name but differ"):
        files.locate(tmp_path, files.VOCABULARY)


def test_vectors_are_kept_by_kind_and_content(tmp_path: Path) -> None:
    store = Store(tmp_path / "deep" / "x.sqlite")
    assert store.read("a", ["k"]) == {}
    store.write("a", {"k": np.arange(3, dtype=np.float32), "i": np.arange(2)})
    found = Store(tmp_path / "deep" / "x.sqlite").read("a", ["i", "k", "other"])
    assert {key: (value.dtype.kind, value.tolist()) for key, value in found.items()} == {
        "i": ("i", [0, 1]), "k": ("f", [0.0, 1.0, 2.0]),
    }  # fmt: skip
    assert store.read("b", ["k"]) == {}
