"""EgoVLP, CLIP and Inception against numbers recorded from the published code."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from egogen.layout import FOLDERS
from ldm.metrics import clip, egovlp, egovlp_plus, evaluate, fid
from ldm.metrics.frames.images import read_image
from ldm.metrics.frames.resize import resize
from ldm.metrics.networks.egovlp_model import fit_frames, load_egovlp
from ldm.metrics.networks.metric_weights import CLIP
from tests.ldm.evaluation.networks import ORACLE
from tests.ldm.evaluation.networks import egovlp as egovlp_state
from tests.ldm.evaluation.recorded_run import Table, read

CPU = torch.device("cpu")
DATASETS = list(FOLDERS)


def frames(recorded: Path, dataset: str) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Generated frame, target and frame before each action, in the order of the target's path."""
    found = []
    annotations = json.loads((recorded / "EgoGen" / f"{dataset}_val.json").read_text())
    actions = sorted((a for clip in annotations.values() for a in clip.values()), key=lambda a: a["image_1"])
    val = recorded / "EgoGen" / FOLDERS[dataset] / "val"
    for action in actions:
        generated = recorded / "gen" / dataset / "images" / action["image_1"]
        found.append(tuple(map(read_image, (generated, val / action["image_1"], val / action["image_0"]))))
    return found  # type: ignore[return-value]


@pytest.fixture(scope="module")
def outputs() -> dict[str, Any]:
    return {name: np.load(ORACLE / f"{name}.npz") for name in ("egovlp_tiny", "clip_tiny", "fid")}


@pytest.fixture(scope="module", params=[4, 16])
def egovlp_file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, Path]:
    path = tmp_path_factory.mktemp("egovlp") / "egovlp.pth"
    torch.save({"state_dict": egovlp_state(request.param)}, path)
    return request.param, path


@pytest.mark.parametrize("dataset", DATASETS)
def test_egovlp(recorded: Path, outputs: Any, egovlp_file: Any, dataset: str) -> None:
    positions, path = egovlp_file
    length = egovlp.FRAMES[dataset]
    network = load_egovlp(path, length, CPU)
    plain, context = (f"{dataset}_ckpt{positions}f_{kind}" for kind in ("noctx", "ctx"))
    expected = outputs["egovlp_tiny"]
    shown = frames(recorded, dataset)
    generated, target, before = (image[None] for image in shown[0])
    scores = {
        plain: egovlp.score(generated, target, network, length),
        context: egovlp_plus.score(generated, target, before, network, length),
    }
    for name, score in scores.items():
        assert float(score) == pytest.approx(expected[f"{name}_sim"][0], abs=3e-6)
    for place, side in enumerate(("gen", "gt")):
        for index, images in enumerate(shown):
            still = egovlp.still(egovlp.prepare(images[place][None], network.side, "published"), length)
            halves = egovlp_plus.halves(images[place][None], images[2][None], network.side, "published")
            clips = {plain: still, context: halves.repeat_interleave(length // 2, dim=1)}
            for name, clip_ in clips.items():
                found = network.video(clip_)[0]
                np.testing.assert_allclose(found, expected[f"{name}_{side}_emb"][index], atol=2e-5)


@pytest.mark.parametrize("dataset", DATASETS)
@pytest.mark.parametrize("index", [0, 3])
def test_what_egovlp_is_given(recorded: Path, outputs: Any, dataset: str, index: int) -> None:
    generated, target, before = frames(recorded, dataset)[index]
    expected = outputs["egovlp_tiny"]
    for side, image in (("gen", generated), ("gt", target)):
        shown = egovlp_plus.halves(image[None], before[None], 224, "published")[0]
        for place, picture in zip(("first", "last"), shown, strict=True):
            name = f"{dataset}_ckpt16f_ctx_pre{index}_{side}_{place}_sub7"
            np.testing.assert_allclose(picture[:, ::7, ::7], expected[name], atol=1e-6)
        plain = egovlp.prepare(image[None], 224, "published")[0]
        name = f"{dataset}_ckpt16f_noctx_pre{index}_{side}"
        np.testing.assert_allclose(plain[:, ::7, ::7], expected[f"{name}_last_sub7"], atol=1e-6)
        assert float(plain.mean()) == pytest.approx(float(expected[f"{name}_mean"]), abs=1e-6)


def test_a_file_with_pickled_settings_loads() -> None:
    """As the published trainer wrote it: settings, paths and names of other packages are read over."""
    recorded_file = load_egovlp(ORACLE / "egovlp_tiny.pth", 4, CPU)
    for name, value in egovlp_state().items():
        found = recorded_file.state_dict()[name.removeprefix("module.")]
        torch.testing.assert_close(found, value[:, :4] if "temporal" in name else value, rtol=0, atol=0)


def test_positions_in_time_are_cut_or_filled_with_zeros() -> None:
    temporal = torch.arange(6.0).view(1, 3, 2)
    assert torch.equal(fit_frames(temporal, 2), temporal[:, :2])
    assert torch.equal(fit_frames(temporal, 4), torch.cat([temporal, torch.zeros(1, 1, 2)], dim=1))


@pytest.mark.parametrize("dataset", DATASETS)
def test_clip(recorded: Path, outputs: Any, weights: Path, dataset: str) -> None:
    network = clip.load(weights / CLIP.name, CPU)
    expected = outputs["clip_tiny"]
    for index, (generated, target, _) in enumerate(frames(recorded, dataset)):
        found = float(clip.score(generated[None], target[None], network))
        assert found == pytest.approx(expected[f"{dataset}_sim"][index], abs=2e-6)
        for side, image in (("gen", generated), ("gt", target)):
            embedding = clip.embed(network, image[None])[0]
            np.testing.assert_allclose(embedding, expected[f"{dataset}_{side}_emb"][index], atol=1e-6)
            if index in (0, 3):
                pixels = resize(image[None], 224, 224, "bicubic", antialias=False)[0]
                name = f"{dataset}_resized{index}_{side}"
                np.testing.assert_allclose(pixels[:, ::7, ::7], expected[f"{name}_sub7"], atol=2e-6)
                np.testing.assert_allclose(pixels.aminmax(), expected[f"{name}_minmax"], atol=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize("dataset", DATASETS)
def test_fid(whole_table: Callable[[str], Table], outputs: Any, dataset: str) -> None:
    """What the command saw and measured."""
    table = whole_table(dataset)
    expected = outputs["fid"]
    for side, name in (("gen", "generated"), ("gt", "reference")):
        found = np.stack([vector for _, vector in sorted(table.seen[name].items())])
        np.testing.assert_allclose(found, expected[f"{dataset}_2048_act_{side}"], atol=3e-6)
        moments = fid.Moments.empty(found.shape[1])
        moments.add(found[:4])
        moments.add(found[4:])
        np.testing.assert_allclose(moments.mean, expected[f"{dataset}_mu_{side}"], atol=1e-6)
        corner = moments.covariance[:8, :8]
        np.testing.assert_allclose(corner, expected[f"{dataset}_sigma_{side}_8x8"], atol=1e-7)
    distance = read(table.folder / "metric" / "metric.json")["fid"]
    values = json.loads((ORACLE / "fid.json").read_text())[f"{dataset}_2048"]
    assert distance == pytest.approx(values["fid_exact_lowrank"], abs=2e-6)
    assert distance == pytest.approx(values["fid"], abs=3e-6)


def edge(recorded: Path, tmp_path: Path, weights: Path, dataset: str = "ego4d", **more: Any) -> Any:
    """Measures the first recorded pair of ego4d alone, after `more["change"]` has altered its folders."""
    change = more.pop("change", lambda _: None)
    annotations = json.loads((recorded / "EgoGen" / "ego4d_val.json").read_text())
    clip_id, actions = next(iter(annotations.items()))
    action_id, action = next(iter(actions.items()))
    (tmp_path / "val.json").write_text(json.dumps({clip_id: {action_id: action}}))
    root = recorded / "EgoGen" / FOLDERS["ego4d"]
    folder = Path(action["image_1"]).parent
    shutil.copytree(root / "val" / folder, tmp_path / "val" / folder)
    for name in ("val_gt_for_metric", "images"):
        (tmp_path / name / folder).mkdir(parents=True)
    shutil.copy(root / "val" / action["image_1"], tmp_path / "val_gt_for_metric" / folder)
    shutil.copy(recorded / "gen" / "ego4d" / "images" / action["image_1"], tmp_path / "images" / folder)
    change(tmp_path / "val" / folder)
    return evaluate(
        dataset,
        tmp_path / "images",
        tmp_path / "val_gt_for_metric",
        tmp_path / "val.json",
        weights=weights,
        **more,
    )


@pytest.fixture(scope="module")
def edges() -> Any:
    return json.loads((ORACLE / "edge_cases.json").read_text())


def test_edge_plain(recorded: Path, tmp_path: Path, weights: Path, edges: Any) -> None:
    found = edge(recorded, tmp_path, weights, metrics=["egovlp", "egovlp_plus"])
    for name, value in edges["plain"].items():
        assert found[name].mean == pytest.approx(value, abs=3e-6)


def test_edge_an_earlier_file(
    recorded: Path, tmp_path: Path, weights: Path, edges: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The published code takes the first file of the folder; ours too, and says so (F-EV-09)."""

    def add(folder: Path) -> None:
        shutil.copy(recorded / "EgoGen/ego4d.fho/val/clip0_00/00001_act/001037.png", folder / "000000.png")

    found = edge(recorded, tmp_path, weights, metrics=["egovlp_plus"], change=add)
    assert "the first file of the folder is not the annotated frame" in caplog.text
    plain = edges["plain"]["egovlp_plus"]
    assert found["egovlp_plus"].mean != pytest.approx(plain, abs=1e-5)
    shutil.rmtree(tmp_path)
    tmp_path.mkdir()
    right = edge(recorded, tmp_path, weights, metrics=["egovlp_plus"], change=add, protocol="corrected")
    shutil.rmtree(tmp_path)
    tmp_path.mkdir()
    undisturbed = edge(recorded, tmp_path, weights, metrics=["egovlp_plus"], protocol="corrected")
    assert right["egovlp_plus"].mean == undisturbed["egovlp_plus"].mean


def test_edge_unpadded_names(recorded: Path, tmp_path: Path, weights: Path) -> None:
    """99.png sorts behind 100.png: the published code stops there, ours says why."""

    def rename(folder: Path) -> None:
        before = min(folder.iterdir())
        before.rename(folder / "99.png")

    with pytest.raises(ValueError, match="the target sorts first in its folder"):
        edge(recorded, tmp_path, weights, metrics=["egovlp_plus"], change=rename)


def test_edge_one_pixel(recorded: Path, tmp_path: Path, weights: Path, edges: Any) -> None:
    """On ego4d another width is refused; the published code crashed or silently went on."""

    def narrow(_: Path) -> None:
        (path,) = (tmp_path / "images").rglob("*.png")
        with Image.open(path) as image:
            image.resize((image.width - 1, image.height), Image.Resampling.BICUBIC).save(path)

    with pytest.raises(ValueError, match="340x256 pixels, its target 341x256"):
        edge(recorded, tmp_path, weights, metrics=["egovlp"], change=narrow)
    shutil.rmtree(tmp_path)
    tmp_path.mkdir()
    found = edge(
        recorded, tmp_path, weights, "epickitchen", metrics=["psnr", "egovlp", "egovlp_plus"], change=narrow
    )
    for name, value in edges["size_mismatch_one_pixel"]["epickitchen"].items():
        if name in found and isinstance(value, float):
            assert found[name].mean == pytest.approx(value, abs=1e-4 if name == "psnr" else 3e-6)


def test_edge_folder_of_another_name(recorded: Path, tmp_path: Path, weights: Path) -> None:
    edge(recorded, tmp_path, weights, metrics=["psnr"])
    targets = (tmp_path / "val_gt_for_metric").rename(tmp_path / "targets")
    given = ["ego4d", tmp_path / "images", targets, tmp_path / "val.json"]
    with pytest.raises(ValueError, match="not named val_gt_for_metric"):
        evaluate(*given, metrics=["egovlp_plus"], weights=weights)
    found = evaluate(*given, metrics=["egovlp_plus"], weights=weights, input_path=tmp_path / "val")
    assert found["egovlp_plus"].n == 1
