"""One photo, one instruction: asks stage 1 if wanted, draws, writes. `ldm.edit` is its door."""

from __future__ import annotations

import logging
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from itertools import chain, count
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from egogen.annotations import check_object
from egogen.errors import UserError
from egogen.features import fit_tokens, read_image_feature, read_text_feature
from egogen.files import atomic_open, read_json, write_json
from egogen.frames import read_frame
from egogen.layout import feature_path
from egogen.locks import hold
from ldm.checkpoints.source import load_parts
from ldm.checkpoints.stated_sizes import resolution_of
from ldm.config.sections import SamplingConfig
from ldm.data.noise import item_generator
from ldm.networks.devices import find_device
from ldm.networks.pixels import to_frame, to_model
from ldm.networks.precision import choose_precisions
from ldm.networks.scales import distilled_of
from ldm.networks.shapes import BOTH
from ldm.networks.text import say_lost
from ldm.pipeline import LegoPipeline
from ldm.sampling.edit_options import FORMATS, RESOLUTION, EditOptions
from ldm.sampling.methods import prepare

log = logging.getLogger(__name__)
CLIP, ACTION, FRAME, TEXTS = "photo", "0", "photo.png", "given.json"


class Condition(NamedTuple):
    """What guides the drawing besides the photo: a text, and stage 1's features if there are any."""

    text: str
    image_feature: Float[Tensor, "1 256 d"] | None = None
    text_feature: Float[Tensor, "1 77 d"] | None = None


def edit(options: EditOptions) -> None:
    """Describes if asked to, draws, writes."""
    device = find_device(options.device)
    photo = read_frame(options.input)
    needs_conditioner = True if options.vllm or options.image_feature else None
    parts = load_parts(options.ckpt, options.config, not options.no_ema, needs_conditioner)
    width = None if parts.conditioner is None else int(parts.conditioner.config.llm_width)
    if options.vllm:
        check_vllm(options, options.vllm, width)
    distilled = distilled_of(parts.unet, f"{options.ckpt}")
    sampling = options.sampling(distilled)
    precisions = choose_precisions(sampling.precision, device, parts.unet.config.block_out_channels[0])
    prepare(parts, device, precisions, compiled=False)
    pipeline = LegoPipeline.from_parts(parts, sampling.scheduler)
    if distilled is None and options.preset == "fast":
        log.info(
            "%s was not distilled: --preset fast draws it with more passes than the 4 of one that was "
            "(python -m ldm.distill)", options.ckpt,
        )  # fmt: skip
    side = side_of(options, resolution_of(parts))
    frame = draw(pipeline, photo, read_condition(options, width), side, sampling, options.seed)
    log.info(
        "drawn in %d steps of %s, %d passes of the UNet; UNet in %s, VAE in %s",
        sampling.steps, sampling.scheduler, pipeline.passes, *precisions,
    )  # fmt: skip
    # Without --output nothing is written over, and two edits at once take two names.
    with nullcontext() if options.output else hold(options.target, "an edit", wait=True):
        target = options.output or free_path(options.target)
        with atomic_open(target) as file:
            frame.save(file, format=FORMATS[target.suffix.lower()])
    log.info("wrote %s, %d x %d", target, frame.width, frame.height)


def free_path(path: Path) -> Path:
    """The path itself or, where something is there, the first of `NAME_2`, `NAME_3` ... that is free."""
    others = (path.with_stem(f"{path.stem}_{number}") for number in count(2))
    return next(each for each in chain([path], others) if not each.exists())


def check_vllm(options: EditOptions, folder: Path, width: int | None) -> None:
    """Checks before stage 1 is started that it can be, and that its features fit the checkpoint.

    Raises:
        UserError: its Python or the folder is not there, or the features are of another width.
    """
    if not options.vllm_python.exists():
        raise UserError(
            f"--vllm-python {options.vllm_python}: not found; run bash scripts/setup.sh vllm, or name the "
            "Python of stage 1's environment"
        )
    if not folder.is_dir():
        raise UserError(f"--vllm {folder}: no such folder; name the VLLM that llava.train wrote")
    found = vllm_width(folder)
    if found not in (None, width):
        raise UserError(
            f"--vllm {folder}: its features are {found} wide, {options.ckpt} takes {width}; give the VLLM "
            "whose features the checkpoint was trained on"
        )


def vllm_width(folder: Path) -> int | None:
    """Width of a VLLM's features by its settings, or by those of its adapters' base; None if they do not say.

    Raises:
        UserError: the settings cannot be read.
    """
    adapters = folder / "adapter_config.json"
    if adapters.is_file():
        base = check_object(read_json(adapters), f"{adapters}", "settings").get("base_model_name_or_path")
        folder = Path(f"{base}")
    path = folder / "config.json"
    if not path.is_file():  # stage 1 says what is wrong with the folder
        return None
    settings = check_object(read_json(path), f"{path}", "settings")
    text = settings.get("text_config", settings)  # Hugging Face's form nests it
    width = text.get("hidden_size") if isinstance(text, dict) else None
    return width if isinstance(width, int) else None


def side_of(options: EditOptions, stated: int | None) -> int:
    """The side of the square to draw; one that is not what the checkpoint was trained for is said."""
    if options.resolution is None:
        log.info(
            "drawing at %d (%s)", stated or RESOLUTION, "the checkpoint's own" if stated else "not stated"
        )
        return stated or RESOLUTION
    if stated not in (None, options.resolution):
        log.warning(
            "%s: was trained at %d and is drawn at --resolution %d", options.ckpt, stated, options.resolution
        )
    return options.resolution


def read_condition(options: EditOptions, width: int | None) -> Condition:
    """Text and features as wide as the checkpoint takes: from stage 1, from files, or the words alone."""
    if options.vllm:
        return ask_vllm(options, width)
    if options.image_feature and options.text_feature:
        return with_features(options.prompt, options.image_feature, options.text_feature, width)
    return Condition(options.prompt)


def with_features(text: str, image_feature: Path, text_feature: Path, width: int | None) -> Condition:
    """Reads feature files."""
    image = torch.from_numpy(read_image_feature(image_feature, width)).float()
    fitted = torch.from_numpy(fit_tokens(read_text_feature(text_feature, image.shape[1])))
    return Condition(text, image[None], fitted[None])


def ask_vllm(options: EditOptions, width: int | None) -> Condition:
    """Runs stage 1 on the photo, in its own environment: it writes a description, or follows the given one.

    Raises:
        UserError: it fails.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        read_frame(options.input).save(folder / FRAME)
        actions = folder / "actions.json"
        entry = {"image_0": FRAME, "image_1": FRAME, "action": options.prompt}
        write_json(actions, {CLIP: {ACTION: entry}})
        # EPIC's labels go into the question as they are.
        command = [
            str(options.vllm_python), "-m", "llava.describe", "--model-path", str(options.vllm),
            "--image-dir", str(folder), "--action-label", str(actions), "--dataset", "epickitchen",
            "--save-path", str(folder / "texts"), "--save-image-feature-path", str(folder / "image"),
            "--save-text-feature-path", str(folder / "text"), "--seed", str(options.seed),
        ]  # fmt: skip
        if options.description is not None:
            write_json(folder / TEXTS, {CLIP: {ACTION: options.description}})
            command += ["--texts", str(folder / TEXTS)]
        done = subprocess.run(command, check=False, stdin=subprocess.DEVNULL)  # noqa: S603 - our own command
        if done.returncode:
            raise UserError(f"--vllm {options.vllm}: stage 1 ended with code {done.returncode}; see above")
        (texts,) = (folder / "texts").glob("chunk_*.json")
        text = read_json(texts)[CLIP][ACTION]["description"]
        log.info("description: %s", text)
        return with_features(
            text, feature_path(folder / "image", FRAME), feature_path(folder / "text", FRAME), width
        )


def draw(
    pipeline: LegoPipeline,
    photo: Image.Image,
    condition: Condition,
    side: int,
    sampling: SamplingConfig,
    seed: int,
) -> Image.Image:
    """Draws the frame and gives it the photo's aspect ratio."""
    (decoded,) = decode(pipeline, [photo], [condition], side, sampling, [seed])
    return shaped(decoded, photo)


def decode(
    pipeline: LegoPipeline,
    photos: Sequence[Image.Image],
    conditions: Sequence[Condition],
    side: int,
    sampling: SamplingConfig,
    seeds: Sequence[int],
    check_finite: bool = True,
    on_step: Callable[[int, Tensor], None] | None = None,
) -> Float[Tensor, "b 3 r r"]:
    """Draws squares, in about [-1, 1]; all conditions have features, or none has.

    Raises:
        UserError: `check_finite`, and one is not finite.
    """
    say_lost(pipeline.tokenizer, [condition.text for condition in conditions], "the text")
    streams = BOTH if pipeline.conditioner is None else pipeline.conditioner.streams
    drawn: Tensor = pipeline(
        torch.stack([to_model(photo, side) for photo in photos]),
        [condition.text for condition in conditions],
        joined([condition.image_feature for condition in conditions]) if streams.image else None,
        joined([condition.text_feature for condition in conditions]) if streams.text else None,
        generator=[item_generator(seed, CLIP, ACTION) for seed in seeds],
        output_type="pt",
        check_finite=check_finite,
        on_step=on_step,
        **sampling.arguments,
    ).images
    return drawn


def joined(features: Sequence[Tensor | None]) -> Tensor | None:
    """Features of several photos as a batch; None where the first has none."""
    there = [each for each in features if each is not None]
    return torch.cat(there) if there else None


def shaped(decoded: Float[Tensor, "3 r r"], photo: Image.Image) -> Image.Image:
    """A drawn square with the photo's aspect ratio."""
    return Image.fromarray(to_frame(decoded, photo.height, photo.width, "clamp"))
