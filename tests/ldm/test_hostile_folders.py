"""Hostile pipeline folders: nothing in them is run, nothing outside is read, each is refused in one line."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from egogen.errors import UserError
from ldm.checkpoints.source import open_source
from ldm.networks.architecture import build
from ldm.pipeline import LegoPipeline
from tests.ldm.toy_run import SHAPE

MARKED = "import pathlib; pathlib.Path(__file__).with_name('ran').touch()\n"
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


class Payload:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.mkdir, ("ran",)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound") / "lego"
    LegoPipeline.from_parts(build(SHAPE)).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, in a folder of its own where code would leave a mark."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(sound, tmp_path / "lego")
    return tmp_path / "lego"


def change(path: Path, **settings: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


def shard(folder: Path, name: str) -> None:
    """The UNet's weights become those of an index, which names a file."""
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    save_file(tensors, folder / "unet" / name)
    index = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(tensors, name)}
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(index))


def pickled(folder: Path, part: str, name: str) -> None:
    for file in (folder / part).glob("*.safetensors"):
        file.unlink()
    torch.save({"a": Payload()}, folder / part / name)


HOSTILE: dict[str, tuple[Callable[[Path], object], str]] = {
    "code in the UNet": (
        lambda at: pickled(at, "unet", "diffusion_pytorch_model.bin"),
        "unet: cannot be loaded",
    ),
    "code in the VAE": (
        lambda at: pickled(at, "vae", "diffusion_pytorch_model.bin"),
        "vae: cannot be loaded",
    ),
    "code in the conditioner": (
        lambda at: pickled(at, "conditioner", "diffusion_pytorch_model.bin"),
        "conditioner: cannot be loaded",
    ),
    "weights from elsewhere": (lambda at: shard(at, "../../outside.safetensors"), "outside"),
    "weights by a whole path": (lambda at: shard(at, f"{at.parent}/outside.safetensors"), "outside"),
    "settings that are deep": (
        lambda at: (at / "unet/config.json").write_text('{"a":' * 5000 + "1" + "}" * 5000),
        "unet",
    ),
    "settings that are none": (lambda at: (at / "unet/config.json").write_text("[1]"), "unet"),
    "an index that is none": (
        lambda at: (at / "model_index.json").write_text("[" * 9000),
        "model_index.json",
    ),
    "channels without end": (
        lambda at: change(at / "unet/config.json", block_out_channels=[2**40] * 4),
        "unet",
    ),
    "layers without end": (
        lambda at: change(at / "text_encoder/config.json", num_hidden_layers=10**9),
        "text_encoder",
    ),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_it_is_refused_in_one_line(what: str, folder: Path) -> None:
    spoil, message = HOSTILE[what]
    spoil(folder)
    with pytest.raises(UserError, match=message) as caught:
        open_source(folder)
    assert "\n" not in f"{caught.value}"
    assert not list(folder.parent.rglob("ran"))


def test_code_beside_the_weights_is_never_run(folder: Path) -> None:
    """As `trust_remote_code` would: `auto_map` in settings, and classes of modules that lie there."""
    auto = dict.fromkeys(("AutoConfig", "AutoModel", "AutoTokenizer"), "evil.Evil")
    for place in (folder, folder.parent, *(path for path in folder.iterdir() if path.is_dir())):
        (place / "evil.py").write_text(MARKED)
    for path in [*folder.rglob("config.json"), *folder.rglob("tokenizer_config.json")]:
        change(path, auto_map=auto, _class_name="Evil", custom_pipeline="evil")
    change(
        folder / "model_index.json", _class_name=["evil", "Evil"], unet=["evil", "Evil"], vae=["evil", "Evil"]
    )
    open_source(folder)
    with pytest.raises(ValueError, match=r"contains custom code in evil\.py"):
        LegoPipeline.from_pretrained(folder)
    assert not list(folder.parent.rglob("ran"))
