"""One photo, one instruction: by the instruction alone, by features, by a stage 1 that runs elsewhere."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from egogen.errors import UserError
from egogen.features import write_feature
from ldm.checkpoints.source import load_parts
from ldm.checkpoints.stated_sizes import resolution_of
from ldm.checkpoints.writing import write
from ldm.convert import main as convert
from ldm.edit import main as edit
from tests.ldm.test_convert import state_of
from tests.ldm.toy_run import SHAPE, WIDTH


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("edit")
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (48, 90, 3), np.uint8)).save(folder / "photo.jpg")
    write(folder / "lego.ckpt", state_of(SHAPE), SHAPE)
    write(folder / "ip2p.ckpt", state_of(SHAPE, conditioner=False), SHAPE)
    broken = state_of(SHAPE)
    broken["model.diffusion_model.out.2.weight"].fill_(np.nan)
    write(folder / "nan.ckpt", broken, SHAPE)
    write_feature(folder / "wide.npy", rng.normal(size=(256, WIDTH + 1)))
    write_feature(folder / "image.npy", rng.normal(size=(256, WIDTH)))
    write_feature(folder / "text.npy", rng.normal(size=(9, WIDTH)))
    return folder


def words(folder: Path, output: Path, ckpt: str, *more: str) -> list[str]:
    return [
        "--input", str(folder / "photo.jpg"), "--prompt", "open the box", "--ckpt", str(folder / ckpt),
        "--output", str(output), "--steps", "2", "--resolution", "32", "--device", "cpu", *more,
    ]  # fmt: skip


FEATURES = ["--image-feature", "{folder}/image.npy", "--text-feature", "{folder}/text.npy"]


def draw(folder: Path, output: Path, ckpt: str, *more: str) -> np.ndarray:
    edit(words(folder, output, ckpt, *(word.format(folder=folder) for word in more)))
    image = Image.open(output)
    assert (image.width, image.height) == (60, 32)
    return np.asarray(image, int)


def test_instruction_features_and_seed_each_count(folder: Path, tmp_path: Path) -> None:
    plain = draw(folder, tmp_path / "a.png", "lego.ckpt")
    assert np.array_equal(plain, draw(folder, tmp_path / "b.png", "lego.ckpt"))
    guided = draw(folder, tmp_path / "c.png", "lego.ckpt", *FEATURES)
    other = draw(folder, tmp_path / "d.png", "lego.ckpt", "--seed", "1")
    assert abs(plain - guided).max() > 0
    assert abs(plain - other).max() > 0
    draw(folder, tmp_path / "e.jpg", "ip2p.ckpt", "--scheduler", "unipc")


def test_stage_1_runs_as_a_process_of_its_own(folder: Path, tmp_path: Path) -> None:
    """A stand-in writes what `llava.describe` writes, where the flags say."""
    stand_in = tmp_path / "python"
    script = tmp_path / "describe.py"
    script.write_text(
        "import argparse, json, shutil\nfrom pathlib import Path\n"
        "parser = argparse.ArgumentParser()\n"
        "for name in ('m', ):\n    parser.add_argument('-m')\n"
        "for name in ('model-path', 'image-dir', 'action-label', 'dataset', 'save-path', "
        "'save-image-feature-path', 'save-text-feature-path', 'seed'):\n"
        "    parser.add_argument('--' + name, required=True)\n"
        "args = parser.parse_args()\n"
        "actions = json.loads(Path(args.action_label).read_text())\n"
        "assert (args.m, args.dataset) == ('llava.describe', 'epickitchen')\n"
        "assert actions['photo']['0']['action'] == 'open the box'\n"
        "assert (Path(args.image_dir) / actions['photo']['0']['image_0']).exists()\n"
        "for kind in ('image', 'text'):\n"
        "    path = Path(getattr(args, f'save_{kind}_feature_path'))\n    path.mkdir(parents=True)\n"
        f"    shutil.copy({str(folder)!r} + f'/{{kind}}.npy', path / 'photo.npy')\n"
        "Path(args.save_path).mkdir()\n"
        "texts = {'photo': {'0': {'description': 'the left hand opens it'}}}\n"
        "(Path(args.save_path) / 'chunk_1_of_1.json').write_text(json.dumps(texts))\n"
    )
    stand_in.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {script} "$@"\n')
    stand_in.chmod(0o755)
    stage_1 = ["--vllm", str(tmp_path), "--vllm-python", str(stand_in)]
    drawn = draw(folder, tmp_path / "a.png", "lego.ckpt", *stage_1)
    expected = draw(folder, tmp_path / "b.png", "lego.ckpt", *FEATURES, "--prompt", "the left hand opens it")
    assert np.array_equal(drawn, expected)
    stand_in.write_text("#!/bin/sh\nexit 3\n")
    with pytest.raises(UserError, match="stage 1 ended with code 3"):
        draw(folder, tmp_path / "c.png", "lego.ckpt", *stage_1)
    assert not (tmp_path / "c.png").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--steps", "0"], "--steps: got 0, allowed: at least 1"),
        (["--steps", "1001"], "--steps: got 1001, allowed: at least 1 and at most 1000"),
        (["--cfg-text", "nan"], "--cfg-text: got nan, allowed: a number from 0 to 1e\\+09"),
        (["--cfg-text", "1e10"], "--cfg-text: got 10000000000.0, allowed: a number from 0 to 1e\\+09"),
        (["--cfg-text=-inf"], "--cfg-text: got -inf"),
        (["--cfg-image", "inf"], "--cfg-image: got inf"),
        (["--cfg-image=-1"], "--cfg-image: got -1.0"),
        (
            ["--image-feature", "{folder}/text.npy", "--text-feature", "{folder}/text.npy"],
            r"text\.npy: image feat",
        ),
        (
            ["--image-feature", "{folder}/wide.npy", "--text-feature", "{folder}/text.npy"],
            rf"wide\.npy: image features are \(256, {WIDTH + 1}\), expected \(256, {WIDTH}\)",
        ),
        (["--ckpt", "{folder}/nan.ckpt"], "drawn frames: not finite"),
        (["--resolution", "33"], "--resolution: got 33, allowed: a multiple of 8, up to 4096"),
        (
            ["--resolution", f"16{'0' * 8}"],
            "--resolution: got 1600000000, allowed: a multiple of 8, up to 4",
        ),
        (["--output", "{folder}/photo.jpg"], r"photo\.jpg: is the photo itself, which would be lost"),
        (["--ckpt", "{folder}"], "no model_index.json here; expected a diffusers pipeline folder, or a file"),
        (["--ckpt", "/dev/zero"], "/dev/zero: is a device; expected a file"),
        (["--output", "a.tiff"], r"--output: got 'a\.tiff', allowed: a name that ends in \.jpg"),
        (["--output", "{folder}/photo.jpg/a.png"], r"photo\.jpg is a file, expected a folder"),
        (["--image-feature", "{folder}/image.npy"], "give both or neither"),
        ([*FEATURES, "--vllm", "x"], "give one of the two"),
        (["--batch-size", "0"], "--batch-size: got 0, allowed: at least 1"),
        (["--ckpt", "assets/toy/vllm"], r"as checkpoints/last\.ckpt of a .*; this is a VLLM, for --vllm"),
        (
            ["--vllm", "{folder}/lego.ckpt"],
            r"--vllm .*lego\.ckpt: is a file, expected a folder; name the VLLM",
        ),
        (["--vllm", "x", "--vllm-python", "nowhere"], "nowhere: not found; run bash scripts/setup.sh vllm"),
        (["--input", "none.jpg"], r"none\.jpg: no such frame"),
        (["--ckpt", "none.ckpt"], r"none\.ckpt: no such checkpoint file"),
        ([*FEATURES, "--ckpt", "{folder}/ip2p.ckpt"], "has no weights for VLLM features"),
    ],
)
def test_wrong_arguments(folder: Path, tmp_path: Path, more: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        edit(words(folder, tmp_path / "a.png", "lego.ckpt", *(word.format(folder=folder) for word in more)))
    assert not (tmp_path / "a.png").exists()


def test_a_photo_is_drawn_upright_by_both_stages(folder: Path, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x112] = 6
    with Image.open(folder / "photo.jpg") as photo:
        photo.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "x.png", exif=exif)
        photo.save(tmp_path / "upright.png")
    turned = draw(folder, tmp_path / "a.png", "lego.ckpt", "--input", str(tmp_path / "x.png"))
    assert np.array_equal(
        turned, draw(folder, tmp_path / "b.png", "lego.ckpt", "--input", str(tmp_path / "upright.png"))
    )


def test_the_checkpoint_states_at_which_size_it_draws(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """In a file, through a folder and back in a safetensors file."""
    write(tmp_path / "a.ckpt", state_of(SHAPE), SHAPE, resolution=48)
    convert(["compvis2diffusers", str(tmp_path / "a.ckpt"), str(tmp_path / "b")])
    convert(["diffusers2compvis", str(tmp_path / "b"), str(tmp_path / "c.safetensors")])
    flags = words(folder, tmp_path / "x.png", "")
    place = flags.index("--resolution")
    del flags[place : place + 2]
    for name in ("a.ckpt", "b", "c.safetensors"):
        edit([*flags, "--ckpt", str(tmp_path / name)])
        assert Image.open(tmp_path / "x.png").size == (90, 48)
    caplog.clear()
    edit([*flags, "--ckpt", str(tmp_path / "a.ckpt"), "--resolution", "32"])
    assert "a.ckpt: was trained at 48 and is drawn at --resolution 32" in caplog.text
    assert resolution_of(load_parts(folder / "lego.ckpt")) is None
