"""`ldm.sample --method pipeline`: stock diffusers pipelines draw what they draw when called by hand."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from egogen.annotations import Annotations
from egogen.errors import UserError
from egogen.files import read_json, write_json
from ldm.baselines.foreign_pipeline import ForeignPipeline
from ldm.baselines.pipeline_index import PipelineIndex
from ldm.data.noise import item_generator
from ldm.evaluate import main as evaluate
from ldm.networks.pixels import to_frame, to_model
from ldm.report.__main__ import main as report
from ldm.sample import main as sample
from ldm.sampling.drawing_config import read_config
from tests.ldm.baselines.tiny_pipelines import (
    ARGUMENTS,
    SIDE,
    harsh,
    img2img,
    write_pipeline,
    write_pipelines,
)
from tests.ldm.toy_run import Run, make_run

SIDES = {"ip2p": 32, "img2img": SIDE, "xl": 32, "kontext": 32}  # which each draws at


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    made = make_run(tmp_path_factory.mktemp("run"))
    write_pipelines(made.root)
    (made.root / "generate.yaml").write_text("sampling: {format: png}\n")
    return made


def draw(run: Run, ckpt: object, out: Path, *words: str, arguments: object = None) -> dict[str, np.ndarray]:
    """Frames by name."""
    flags = ["--method", "pipeline", "--config", str(run.root / "generate.yaml"), "--out", str(out)]
    flags += ["--ckpt", str(ckpt), *run.words(), *words]
    if arguments is not None:
        flags += ["--pipeline-args", arguments if isinstance(arguments, str) else json.dumps(arguments)]
    sample(flags)
    return {
        str(path.relative_to(out / "images")): np.asarray(Image.open(path), int)
        for path in sorted(out.rglob("*.png"))
    }


def by_hand(run: Run, kind: str) -> dict[str, np.ndarray]:
    """What the stock pipeline draws of each item, called as its users call it."""
    pipeline: Any = diffusers.DiffusionPipeline.from_pretrained(run.root / kind)
    pipeline.set_progress_bar_config(disable=True)
    more = {"height": 32, "width": 32, "max_area": 1024} if kind == "kontext" else {}
    frames = {}
    for item in Annotations.read(run.annotations("val")):
        photo = Image.open(run.layout.frames("val") / item.action.image_0)
        source = to_model(photo, SIDES[kind])
        squashed = Image.fromarray(((source + 1) * 127.5).round().byte().permute(1, 2, 0).numpy())
        made = pipeline(
            prompt=item.action.action, image=squashed, generator=item_generator(0, item.clip, item.id),
            output_type="pt", **more, **ARGUMENTS[kind],
        ).images  # fmt: skip
        frames[str(Path(item.action.image_1).with_suffix(".png"))] = to_frame(
            made[0] * 2 - 1, 256, 456, "clamp", 32
        ).astype(int)
    return frames


@pytest.mark.parametrize("kind", SIDES)
def test_frames_are_those_of_the_stock_pipeline_called_by_hand(run: Run, kind: str, tmp_path: Path) -> None:
    """Exactly, one by one, in two shards; in a batch to rounding. Whole folders are left as they are."""
    words = ["data.text_key=action", *(["pipeline.resolution=32"] if kind == "kontext" else [])]
    folder, given = run.root / kind, ARGUMENTS[kind]
    first = draw(
        run, folder, tmp_path / "alone", "--batch-size", "1", "--shard", "1/2", *words, arguments=given
    )
    alone = draw(run, folder, tmp_path / "alone", "--batch-size", "1", *words, arguments=given)
    assert 0 < len(first) < len(alone) == 3
    wanted = by_hand(run, kind)
    assert alone.keys() == wanted.keys()
    for name, frame in alone.items():
        assert frame.shape[0] == 32
        assert np.array_equal(frame, wanted[name])
        assert name not in first or np.array_equal(frame, first[name])
    (tmp_path / "args.yaml").write_text(json.dumps(given))
    together = draw(run, folder, tmp_path / "batch", *words, arguments=str(tmp_path / "args.yaml"))
    assert together.keys() == alone.keys()
    assert all(abs(frame - alone[name]).max() <= 1 for name, frame in together.items())
    stated = [read_json(tmp_path / name / "manifest.json") for name in ("alone", "batch")]
    assert stated[0] == stated[1]
    assert stated[0]["pipeline"] == {
        "class": read_json(folder / "model_index.json")["_class_name"],
        "resolution": SIDES[kind],
        "arguments": given,
    }
    assert stated[0]["text_key"] == "action"


def test_frames_are_not_stretched_unless_asked_for(run: Run) -> None:
    """By no file of configs/methods; the stretch is LEGO's own."""
    folder, asked = run.root / "img2img", ["sampling.output_range=stretch"]
    assert read_config([], "pipeline", folder).sampling.output_range == "clamp"
    assert read_config(asked, "pipeline", folder).sampling.output_range == "stretch"
    assert read_config([], "lego", None).sampling.output_range == "stretch"


def test_a_list_of_frames_may_mean_views_of_one() -> None:
    """Pipelines that are not known to pair frames and texts get them one by one."""

    class Views(diffusers.DiffusionPipeline):
        def __call__(self, image: Image.Image, prompt: str, **_: object) -> Any:
            assert image.size == (8, 8)
            return type("Made", (), {"images": torch.full((1, 3, 8, 8), len(prompt) / 4)})

    made = ForeignPipeline(Views(), {}).draw(
        torch.zeros(3, 3, 8, 8), ["a", "ab", "abcd"], [torch.Generator()] * 3
    )
    assert made[:, 0, 0, 0].tolist() == [-0.5, 0.0, 1.0]


def test_a_model_that_draws_from_texts_is_drawn_by_its_twin(run: Run, tmp_path: Path) -> None:
    """As the published Stable Diffusion is named: by the class that takes no frame."""
    folder = tmp_path / "plain"
    shutil.copytree(run.root / "img2img", folder)
    stated = read_json(folder / "model_index.json")
    write_json(folder / "model_index.json", {**stated, "_class_name": "StableDiffusionPipeline"})
    given = ARGUMENTS["img2img"]
    wanted = draw(run, run.root / "img2img", tmp_path / "a", "--shard", "1/2", arguments=given)
    found = draw(run, folder, tmp_path / "b", "--shard", "1/2", arguments=given)
    assert all(np.array_equal(frame, found[name]) for name, frame in wanted.items())
    assert (
        read_json(tmp_path / "b" / "manifest.json")["pipeline"]["class"] == "StableDiffusionImg2ImgPipeline"
    )
    for name, twin in (("StableDiffusionXL", "StableDiffusionXLImg2Img"), ("Flux", "FluxImg2Img")):
        write_json(folder / "model_index.json", {"_class_name": f"{name}Pipeline"})
        assert PipelineIndex(folder).name == f"{twin}Pipeline"


def test_a_run_with_other_arguments_or_another_pipeline_does_not_mix(run: Run, tmp_path: Path) -> None:
    given = ARGUMENTS["img2img"]
    draw(run, run.root / "img2img", tmp_path, "--shard", "1/2", arguments=given)
    with pytest.raises(
        UserError, match=r"the folder was made with pipeline.arguments.strength = 0.5, this run has 1"
    ):
        draw(run, run.root / "img2img", tmp_path, arguments={**given, "strength": 1})
    with pytest.raises(UserError, match="the folder was made with checkpoint of another content"):
        draw(run, run.root / "xl", tmp_path, arguments=given)
    assert len(draw(run, run.root / "img2img", tmp_path, arguments=given)) == 3


@pytest.mark.parametrize(
    ("arguments", "words", "message"),
    [
        ({"strenght": 1}, [], r"strenght: StableDiffusionImg.* does not take it; did you mean 'strength'"),
        ({"image_guidance_scale": 1}, [], r"image_guidance_scale: .* does not take it.*allowed are stren"),
        ({"generator": 1}, [], r"pipeline.arguments.generator: got 1, allowed: none, the drawing gives it"),
        ({"kwargs": 1}, [], r"pipeline.arguments.kwargs: StableDiffusionImg2ImgPipeline does not take it"),
        ("[1, 2]", [], r"pipeline.arguments: got \[1, 2\], allowed: values by name"),
        ("nowhere.yaml", [], r"nowhere.yaml: no such file"),
        ({}, ["pipeline.resolution=12"], r"pipeline.resolution: got 12, allowed: a multiple of 8"),
        ({}, ["sampling.compile=true"], r"sampling.compile: got True, allowed: false with --method pipeline"),
        ({}, ["sampling.steps=3"], r"'sampling.steps=3': --method pipeline does not use it"),
        ({}, ["sdedit.steps=3"], r"'sdedit.steps=3': --method pipeline does not use it"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_named_before_weights_are_read(
    run: Run, arguments: object, words: list[str], message: str, tmp_path: Path
) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(run.root / "img2img", bare, ignore=shutil.ignore_patterns("*.safetensors"))
    with pytest.raises(UserError, match=message) as caught:
        draw(run, bare, tmp_path / "out", *words, arguments=arguments)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_values_that_the_pipeline_refuses_are_told_in_its_words(run: Run, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"Img2ImgPipeline refuses them \(The value of strength should in \[0.0"
    ):
        draw(run, run.root / "img2img", tmp_path, arguments={"strength": 3})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"_class_name": "DDPMPipeline"}, r"Pipeline takes no 'image'; allowed are image-to"),
        ({"_class_name": "StableDiffusionInpaintPipeline"}, r"asks for a mask too; allowed are"),
        ({"_class_name": "StableDiffusionControlNetPipeline"}, r"asks for a control image too"),
        ({"_class_name": "LegoPipeline"}, r"got 'LegoPipeline', which diffusers .* drawn by --method lego"),
        ({"_class_name": ["own", "Pipeline"]}, r"got \['own', 'Pipeline'\].*code of others is not run"),
        ({"_class_name": "AutoencoderKL"}, r"_class_name: got 'AutoencoderKL'"),
        ({"unet": ["own_code", "UNet"]}, r"unet: got 'own_code.UNet'; allowed are classes of the installed"),
        ({"unet": ["os", "PathLike"]}, r"unet: got 'os.PathLike'"),
        ({"unet": ["diffusers", "NoSuchUNet"]}, r"unet: got 'diffusers.NoSuchUNet'"),
    ],
)  # fmt: skip
def test_pipelines_of_another_kind_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    stated = {"_class_name": "StableDiffusionImg2ImgPipeline", "unet": ["diffusers", "UNet2DConditionModel"]}
    write_json(tmp_path / "model_index.json", {**stated, **changes})
    with pytest.raises(UserError, match=message) as caught:
        PipelineIndex(tmp_path)
    assert "\n" not in str(caught.value)


def test_weights_are_whole_and_safetensors(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "img2img"
    shutil.copytree(run.root / "img2img", folder)
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    save_file({name: value for name, value in tensors.items() if name != "conv_out.weight"}, weights)
    with pytest.raises(UserError, match=r"unet: .*conv_out.weight"):
        draw(run, folder, tmp_path / "out", arguments=ARGUMENTS["img2img"])
    torch.save(tensors, weights.with_suffix(".bin"))
    weights.unlink()
    with pytest.raises(UserError, match=r"unet: cannot be loaded \(.*no file named .*safetensors"):
        draw(run, folder, tmp_path / "out", arguments=ARGUMENTS["img2img"])
    assert not (tmp_path / "out").exists()


def test_places_without_a_pipeline(run: Run, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no model_index.json here; expected a diffusers pipeline"):
        draw(run, run.root, tmp_path / "out")
    with pytest.raises(UserError, match=r"a/b/c: no such checkpoint file or folder"):
        draw(run, "a/b/c", tmp_path / "out")
    with pytest.raises(UserError, match=r"start.ckpt: is a file; --method pipeline takes a diffusers folder"):
        draw(run, run.start, tmp_path / "out")
    with pytest.raises(UserError, match=r"--pipeline-args: not used by --method copy"):
        sample(["--config", "x.yaml", "--method", "copy", "--pipeline-args", "{}"])


def test_an_id_on_the_hub_is_taken_from_its_cache(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a network: what is not there is told in one line, what was fetched before is drawn."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    given = ARGUMENTS["img2img"]
    with pytest.raises(
        UserError, match=r"--ckpt toy/img2img: no such folder, and no answer from the hub"
    ) as caught:
        draw(run, "toy/img2img", tmp_path / "out", arguments=given)
    assert "\n" not in str(caught.value)
    cached, commit = tmp_path / "hub" / "models--toy--img2img", "0" * 40
    shutil.copytree(run.root / "img2img", cached / "snapshots" / commit)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(commit)
    found = draw(run, "toy/img2img", tmp_path / "out", arguments=given)
    assert len(found) == 3
    # The same content is the same run.
    assert draw(run, run.root / "img2img", tmp_path / "out", arguments=given).keys() == found.keys()
    # A tag that was fetched is drawn; one that was not is told with the command that fetches it.
    (cached / "refs" / "v1").write_text(commit)
    assert draw(run, "toy/img2img@v1", tmp_path / "tag", arguments=given).keys() == found.keys()
    with pytest.raises(UserError, match=r"hf download toy/img2img --revision v2$"):
        draw(run, "toy/img2img@v2", tmp_path / "other", arguments=given)


def test_frames_that_a_safety_checker_blackens_are_told_and_counted(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_pipeline(tmp_path / "strict", img2img(harsh()))
    with caplog.at_level(logging.WARNING):
        frames = draw(run, folder, tmp_path / "out", arguments=ARGUMENTS["img2img"])
    assert all(frame.max() == 0 for frame in frames.values())
    assert (
        "safety checker of StableDiffusionImg2ImgPipeline has made 3 of 3 frames black so far" in caplog.text
    )


def test_such_a_run_is_measured_and_reported_as_any_other(run: Run, tmp_path: Path) -> None:
    """At 16 bits and its own size; the report has its row."""
    out = tmp_path / "img2img"
    draw(run, run.root / "img2img", out, "sampling.precision=bf16", arguments=ARGUMENTS["img2img"])
    stated = read_json(out / "manifest.json")["sampling"]
    assert (stated["precision"], stated["precision_vae"], stated["height"]) == ("bf16", "bf16", 32)
    targets = str(run.layout.metric_targets)
    edits = str(run.annotations("val"))
    evaluate(
        ["--dataset", "ego4d", "--gen_path", str(out), "--gt_path", targets, "--edit_file", edits,
         "--metrics", "psnr"]
    )  # fmt: skip
    report([str(out), "--out", str(tmp_path / "report"), "--published", "none", "--annotations", edits,
            "--frames", str(run.layout.frames("val"))])  # fmt: skip
    assert read_json(tmp_path / "report" / "metrics.json")
    assert "img2img" in (tmp_path / "report" / "index.html").read_text()
