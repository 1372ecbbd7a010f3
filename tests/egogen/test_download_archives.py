"""Downloads that are unpacked: features in parts, the data set; archives stay until they are in place."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest

from egogen.download.__main__ import main
from egogen.errors import UserError
from egogen.features import read_image_feature, read_text_feature
from egogen.layout import Layout, features_root, metric_target_path
from tests.egogen.fake_hub import Hub
from tests.egogen.split_archive import split_archive, whole_archive
from tests.egogen.test_download import files


def npy(*shape: int) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float16))
    return stream.getvalue()


def publish_features(hub: Hub) -> None:
    """The published layout: split archives whose paths tell kind and split."""
    run = "llava-llama-2-13b-chat-forecasting-finetune-ckpt450"
    images = {f"{run}/{split}/c/0/{n}.npy": npy(256, 8) for split in ("train", "val") for n in range(4)}
    texts = {name: npy(3, 8) for name in images}
    repo = hub.repos["dataset", "bolinlai/LEGO-VLLM-Features-Ego4D"]
    stem = f"ego4d/vllm_image_feature/{run}-split"
    *first, last = split_archive(images, 10_000)
    repo |= {f"{stem}.z{number:02d}": part for number, part in enumerate(first, 1)}
    repo[f"{stem}.zip"] = last
    repo[f"ego4d/vllm_text_feature/{run}.zip"] = whole_archive(
        {**texts, "__MACOSX/._x": b"", "readme.txt": b"x"}
    )
    repo["README.md"] = b"# features"


def test_features(hub: Hub, tmp_path: Path) -> None:
    publish_features(hub)
    main(["features", "--what", "ego4d", "--dest", str(tmp_path)])
    for split in ("train", "val"):
        for number in range(4):
            name = f"c/0/{number}.npy"
            read_image_feature(features_root(tmp_path, "ego4d", split, "llava_image") / name, 8)
            read_text_feature(features_root(tmp_path, "ego4d", split, "llava_text") / name, 8)
    assert len(files(tmp_path)) == 16
    assert [path.name for path in (tmp_path / ".download").iterdir()] == ["ego4d.json"]
    hub.seen.clear()
    main(["features", "--what", "ego4d", "--dest", str(tmp_path)])
    assert not hub.seen


def test_archives_stay_until_they_are_unpacked(hub: Hub, tmp_path: Path) -> None:
    publish_features(hub)
    in_the_way = features_root(tmp_path, "ego4d", "val", "llava_image") / "c/0/3.npy"
    in_the_way.parent.mkdir(parents=True)
    in_the_way.write_bytes(b"x")
    with pytest.raises(UserError, match=r"3\.npy: there already, with other bytes"):
        main(["features", "--what", "ego4d", "--dest", str(tmp_path)])
    parts = list((tmp_path / ".download/ego4d").rglob("*-split.*"))
    assert len(parts) == 4
    in_the_way.unlink()
    hub.seen.clear()
    main(["features", "--what", "ego4d", "--dest", str(tmp_path)])
    assert all("text" in seen.name for seen in hub.seen)
    assert len(files(tmp_path)) == 16


def test_features_that_tell_nothing(hub: Hub, tmp_path: Path) -> None:
    repo = hub.repos["dataset", "bolinlai/LEGO-VLLM-Features-Ego4D"]
    repo["x.zip"] = whole_archive({"train/c/0/0.npy": npy(256, 8)})
    with pytest.raises(UserError, match=r"tell no split .* or no kind .*unpack it by hand"):
        main(["features", "--what", "ego4d", "--dest", str(tmp_path)])


def test_the_data_set(hub: Hub, root: Path, tmp_path: Path) -> None:
    frames = {f"EgoGen/{name}": content for name, content in files(root / "EgoGen").items()}
    texts = {name: frames.pop(name) for name in list(frames) if name.endswith(".json")}
    del texts["EgoGen/manifest.json"]
    repo = hub.repos["dataset", "bolinlai/LEGO-Dataset"]
    repo |= {name.removeprefix("EgoGen/"): content for name, content in texts.items()}
    *first, last = split_archive(frames, 30_000)
    repo |= {f"EgoGen.z{number:02d}": part for number, part in enumerate(first, 1)} | {"EgoGen.zip": last}
    main(["dataset", "--dest", str(tmp_path / "data")])
    assert files(tmp_path / "data") == {**frames, **texts}
    target = metric_target_path(Layout(tmp_path / "data", "ego4d").metric_targets, "toy_val_000000/0/x.jpg")
    assert target.parent.is_dir()
