"""Weight files of metrics: where they are found, what is read of them, and what is refused."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from egogen.errors import UserError
from ldm.metrics.networks import metric_weights
from ldm.metrics.networks.metric_weights import (
    CLIP,
    TOY_CLASSIFIER,
    VOCABULARY,
    WeightFile,
    load_strictly,
    locate,
    locate_all,
    read_state,
    require,
    sha256,
)

AGAIN = "fetch it again by bash scripts/download_metric_weights.sh"
MISSING = (
    "name their folder by WEIGHTS_ROOT or --weights, or choose metrics that need none by --metrics psnr,ssim"
)
PATH = Path("x.pth")


def told(work: Any, *given: object) -> str:
    with pytest.raises(UserError) as error:
        work(*given)
    return str(error.value)


def test_a_file_is_found_anywhere_below_the_folder(tmp_path: Path) -> None:
    assert locate(tmp_path, CLIP) is None
    (tmp_path / "other.pt").touch()
    assert locate(tmp_path, CLIP) is None
    paths = [tmp_path / folder / CLIP.name for folder in ("b", "a/deep")]
    for path in paths:
        path.parent.mkdir(parents=True)
        path.write_text("same")
        assert locate(tmp_path, CLIP) == path  # of equal ones the first by name
    paths[0].write_text("different")
    assert told(locate, tmp_path, CLIP) == (
        f"{paths[1]} and {paths[0]} have one name but differ; keep the right one below {tmp_path}"
    )


def test_one_file_under_two_names_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files may have gigabytes: a single one needs no comparison."""
    monkeypatch.setattr(metric_weights, "file_hash", None)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / CLIP.name).touch()
    (tmp_path / "b").symlink_to("a")
    assert locate(tmp_path, CLIP) == tmp_path / "a" / CLIP.name


def test_all_that_is_missing_is_told_at_once(tmp_path: Path) -> None:
    wanted = [VOCABULARY, TOY_CLASSIFIER, CLIP, VOCABULARY]
    assert told(locate_all, tmp_path, wanted) == (
        f"{tmp_path}: 3 weight files missing: vocab.txt (232 kB: words of DistilBERT and BLIP, from "
        "distilbert-base-uncased), toy_classifier.safetensors (2 MB: classifier of toy frames), ViT-L-14.pt "
        "(933 MB: OpenAI CLIP); get them by bash scripts/download_metric_weights.sh and python -m "
        f"ldm.toy.classifier, {MISSING}"
    )
    (tmp_path / CLIP.name).touch()
    assert told(locate_all, tmp_path, wanted).startswith(f"{tmp_path}: 2 weight files missing: vocab.txt (")
    (tmp_path / VOCABULARY.name).touch()
    assert told(locate_all, tmp_path, wanted) == (
        f"{tmp_path}: 1 weight file missing: toy_classifier.safetensors (2 MB: classifier of toy frames); "
        f"get them by python -m ldm.toy.classifier, {MISSING}"
    )
    assert locate_all(tmp_path, iter([VOCABULARY, CLIP])) == {
        file.name: tmp_path / file.name for file in (CLIP, VOCABULARY)
    }
    assert locate_all(tmp_path, []) == {}


def test_a_file_is_hashed_again_where_it_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"
    hashed: list[Path] = []
    plain = metric_weights.file_hash
    monkeypatch.setattr(metric_weights, "file_hash", lambda path: (hashed.append(path), plain(path))[1])
    for content in (b"one", b"three"):
        path.write_bytes(content)
        for _ in range(2):
            assert sha256(path) == hashlib.sha256(content).hexdigest()
    assert hashed == [path, path]


@pytest.mark.parametrize("around", ["", "state_dict", "model"])
def test_tensors_are_read_from_where_trainers_put_them(tmp_path: Path, around: str) -> None:
    weights = {"a.weight": torch.arange(3.0), "b": torch.tensor(2)}
    content = {**weights, "epoch": 1}
    torch.save({around: content, "more": "words"} if around else content, tmp_path / "x.pth")
    found = read_state(tmp_path / "x.pth")
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[name], value) for name, value in weights.items())


def test_a_tensor_may_be_named_model(tmp_path: Path) -> None:
    torch.save({"model": torch.ones(2)}, tmp_path / "x.pth")
    assert read_state(tmp_path / "x.pth")["model"].tolist() == [1, 1]
    torch.save({"model": {"epoch": 1}}, tmp_path / "x.pth")
    assert told(read_state, tmp_path / "x.pth") == f"{tmp_path / 'x.pth'}: holds no weights; {AGAIN}"


class Counting(nn.Linear):
    """A layer with a whole number among its weights."""

    def __init__(self) -> None:
        super().__init__(2, 3)
        self.register_buffer("steps", torch.tensor(0))


def test_weights_are_loaded_where_all_of_them_fit() -> None:
    given = {"weight": torch.arange(6.0).view(3, 2), "bias": torch.ones(3), "steps": torch.tensor(7)}
    for more, surplus in (({}, ()), ({"old": torch.ones(1)}, (lambda name: name == "old",))):
        network = Counting()
        load_strictly(network, {**given, **more}, PATH, "it", *surplus)
        assert all(torch.equal(network.state_dict()[name], value) for name, value in given.items())


@pytest.mark.parametrize(
    ("change", "faults"),
    [
        ({"weight": None}, "1 missing (such as 'weight')"),
        ({"weight": None, "bias": None}, "2 missing (such as 'bias')"),
        ({"old": torch.ones(1), "more": torch.ones(1)}, "2 unknown (such as 'more')"),
        ({"weight": torch.ones(3, 2).int()}, "1 of another type (such as 'weight')"),
        ({"steps": torch.tensor(1.5)}, "1 of another type (such as 'steps')"),
        ({"bias": torch.ones(2), "weight": torch.ones(2, 3)}, "2 of another shape (such as 'bias')"),
        (
            {"weight": None, "new": torch.ones(1), "bias": torch.ones(2).int()},
            "1 missing (such as 'weight'), 1 unknown (such as 'new'), 1 of another type (such as 'bias'), "
            "1 of another shape (such as 'bias')",
        ),
    ],
)
def test_weights_of_another_network_are_told(change: dict[str, Tensor | None], faults: str) -> None:
    network = Counting()
    before = network.weight.clone()
    changed: dict[str, Tensor | None] = {**network.state_dict(), "weight": torch.ones(3, 2), **change}
    given = {name: value for name, value in changed.items() if value is not None}
    assert told(load_strictly, network, given, PATH, "it") == (
        f"x.pth: not the weights of it: of 3 tensors {faults}; {AGAIN}"
    )
    assert torch.equal(network.weight, before)


def test_what_sizes_are_read_off_must_be_there() -> None:
    state = {"a": torch.ones(1), "b": torch.ones(1)}
    require(state, ("a", "b"), PATH, "it")
    for names in (("a", "c", "d"), ("c",)):
        assert told(require, state, names, PATH, "it") == (
            f"x.pth: not the weights of it: there is no 'c'; {AGAIN}"
        )


def test_files_are_known_by_their_published_names() -> None:
    assert WeightFile("x", "1 MB", "it").fetch == "bash scripts/download_metric_weights.sh"
