"""One photo, one instruction: asks stage 1 if wanted, draws, writes. `ldm.edit` is its door."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from itertools import chain, count
from pathlib import Path
from typing import NamedTuple

import torch
from diffusers import DiffusionPipeline
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from egogen.features import read_pair
from egogen.files import atomic_open
from egogen.frames import encoded, read_frame
from egogen.locks import hold
from ldm.checkpoints.lora_files import apply_loras
from ldm.checkpoints.source import load_parts
from ldm.checkpoints.stated_sizes import guidance_of, resolution_of
from ldm.config.sections import SamplingConfig
from ldm.data.noise import item_generator
from ldm.networks.devices import find_device
from ldm.networks.pixels import to_frame, to_model
from ldm.networks.precision import Precisions, choose_precisions
from ldm.networks.scales import distilled_of
from ldm.networks.shapes import BOTH
from ldm.networks.text import say_lost
from ldm.pipeline import LegoPipeline
from ldm.sampling.asking import ACTION, CLIP, Question, ask, check_vllm
from ldm.sampling.edit_options import FORMATS, RESOLUTION, DrawingOptions, EditOptions
from ldm.sampling.methods import prepare

log = logging.getLogger(__name__)


class Condition(NamedTuple):
    """What guides the drawing besides the photo: a text, and stage 1's features if there are any."""

    text: str
    image_feature: Float[Tensor, "1 256 d"] | None = None
    text_feature: Float[Tensor, "1 77 d"] | None = None


class Studio(NamedTuple):
    """A loaded checkpoint, and how it draws: `side` of the square, `width` of the features that it takes."""

    pipeline: LegoPipeline
    sampling: SamplingConfig
    precisions: Precisions
    side: int
    width: int | None


def edit(options: EditOptions) -> None:
    """Describes if asked to, draws, writes."""
    device = find_device(options.device)
    photo = read_frame(options.input)
    studio = open_studio(options, device)
    condition = read_condition(options, studio.width)
    frame = draw(studio.pipeline, photo, condition, studio.side, studio.sampling, options.seed)
    log.info(
        "drawn in %d steps of %s, %d passes of the UNet; UNet in %s, VAE in %s",
        studio.sampling.steps, studio.sampling.scheduler, studio.pipeline.passes, *studio.precisions,
    )  # fmt: skip
    # Without --output nothing is written over, and two edits at once take two names.
    with nullcontext() if options.output else hold(options.target, "an edit", wait=True):
        target = options.output or free_path(options.target)
        save(frame, target)
    log.info("wrote %s, %d x %d", target, frame.width, frame.height)


def open_studio(options: DrawingOptions, device: torch.device) -> Studio:
    """Loads the checkpoint and settles how it draws.

    Raises:
        UserError: the checkpoint cannot be drawn as asked for, or stage 1 does not fit it.
    """
    needs_conditioner = True if options.vllm or options.image_feature else None
    parts = load_parts(options.ckpt, options.config, not options.no_ema, needs_conditioner)
    width = None if parts.conditioner is None else int(parts.conditioner.config.llm_width)
    if options.vllm:
        check_vllm(options, options.vllm, width)
    distilled = distilled_of(parts.unet, f"{options.ckpt}")
    sampling = options.sampling(distilled, guidance_of(parts))
    apply_loras(parts, sampling.loras, options.ckpt)
    precisions = choose_precisions(sampling.precision, device, parts.unet.config.block_out_channels[0])
    prepare(parts, device, precisions, compiled=False)
    pipeline = LegoPipeline.from_parts(parts, sampling.scheduler)
    if distilled is None and options.preset == "fast":
        log.info(
            "%s was not distilled: --preset fast draws it with more passes than the 4 of one that was "
            "(python -m ldm.distill)", options.ckpt,
        )  # fmt: skip
    return Studio(pipeline, sampling, precisions, side_of(options, resolution_of(parts)), width)


def save(frame: Image.Image, target: Path) -> None:
    """Writes a frame in the format that its name ends in; it appears whole."""
    with atomic_open(target) as file:
        file.write(encoded(frame, FORMATS[target.suffix.lower()]))


def free_path(path: Path) -> Path:
    """The path itself or, where something is there, the first of `NAME_2`, `NAME_3` ... that is free."""
    others = (path.with_stem(f"{path.stem}_{number}") for number in count(2))
    return next(each for each in chain([path], others) if not each.exists())


def side_of(options: DrawingOptions, stated: int | None) -> int:
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
    return Condition(
        text, *(torch.from_numpy(each)[None] for each in read_pair(image_feature, text_feature, width))
    )


def ask_vllm(options: EditOptions, width: int | None) -> Condition:
    """Runs stage 1 on the photo, in its own environment: it writes a description, or follows the given one.

    Raises:
        UserError: it fails.
    """
    with tempfile.TemporaryDirectory() as name:
        question = Question(CLIP, options.input, options.prompt, options.seed, options.description)
        answer = ask(options, Path(name), [question])[CLIP]
        log.info("description: %s", answer.text)
        return with_features(*answer, width)


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
    """Draws squares, in about [-1, 1]; all conditions have features, or none has. `on_step`: see `clean_at`.

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
        callback_on_step_end=None if on_step is None else partial(clean_at, on_step),
        callback_on_step_end_tensor_inputs=["clean_latents"],
        **sampling.arguments,
    ).images
    return drawn


def clean_at(
    on_step: Callable[[int, Tensor], None],
    _pipeline: DiffusionPipeline,
    step: int,
    _t: Tensor,
    given: dict[str, Tensor],
) -> dict[str, Tensor]:
    """Hands on a step's number, and what its frames would be without the noise that is left."""
    on_step(step, given["clean_latents"])
    return {}


def joined(features: Sequence[Tensor | None]) -> Tensor | None:
    """Features of several photos as a batch; None where the first has none."""
    there = [each for each in features if each is not None]
    return torch.cat(there) if there else None


def shaped(decoded: Float[Tensor, "3 r r"], photo: Image.Image) -> Image.Image:
    """A drawn square with the photo's aspect ratio."""
    return Image.fromarray(to_frame(decoded, photo.height, photo.width, "clamp"))
