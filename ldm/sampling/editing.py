"""One photo, one instruction: asks stage 1 if wanted, draws, writes. `ldm.edit` is its door."""

from __future__ import annotations

import logging
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from egogen.errors import UserError
from egogen.features import fit_tokens, read_image_feature, read_text_feature
from egogen.files import atomic_open, read_json, write_json
from egogen.frames import read_frame
from egogen.layout import feature_path
from ldm.checkpoints.source import load_parts
from ldm.data.noise import item_generator
from ldm.networks.devices import find_device
from ldm.networks.pixels import to_frame, to_model
from ldm.networks.shapes import BOTH
from ldm.networks.text import say_lost
from ldm.pipeline import LegoPipeline
from ldm.sampling.edit_options import FORMATS, EditOptions

log = logging.getLogger(__name__)
CLIP, ACTION, FRAME = "photo", "0", "photo.png"


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
    pipeline = LegoPipeline.from_parts(parts, options.scheduler).to(device)
    frame = draw(pipeline, photo, read_condition(options), options)
    with atomic_open(options.output) as file:
        frame.save(file, format=FORMATS[options.output.suffix.lower()])
    log.info("wrote %s, %d x %d", options.output, frame.width, frame.height)


def read_condition(options: EditOptions) -> Condition:
    """Text and features, from stage 1, from files, or the instruction alone."""
    if options.vllm:
        return ask_vllm(options)
    if options.image_feature and options.text_feature:
        return with_features(options.prompt, options.image_feature, options.text_feature)
    return Condition(options.prompt)


def with_features(text: str, image_feature: Path, text_feature: Path) -> Condition:
    """Reads feature files."""
    image = torch.from_numpy(read_image_feature(image_feature)).float()
    fitted = torch.from_numpy(fit_tokens(read_text_feature(text_feature, image.shape[1])))
    return Condition(text, image[None], fitted[None])


def ask_vllm(options: EditOptions) -> Condition:
    """Runs stage 1 on the photo, in its own environment.

    Raises:
        UserError: it cannot be started, or fails.
    """
    if not options.vllm_python.exists():
        raise UserError(
            f"--vllm-python {options.vllm_python}: not found; run bash scripts/setup.sh vllm, or name the "
            "Python of stage 1's environment"
        )
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
        done = subprocess.run(command, check=False, stdin=subprocess.DEVNULL)  # noqa: S603 - our own command
        if done.returncode:
            raise UserError(f"--vllm {options.vllm}: stage 1 ended with code {done.returncode}; see above")
        (texts,) = (folder / "texts").glob("chunk_*.json")
        text = read_json(texts)[CLIP][ACTION]["description"]
        log.info("description: %s", text)
        return with_features(
            text, feature_path(folder / "image", FRAME), feature_path(folder / "text", FRAME)
        )


def draw(
    pipeline: LegoPipeline, photo: Image.Image, condition: Condition, options: EditOptions
) -> Image.Image:
    """Draws the frame and gives it the photo's aspect ratio."""
    say_lost(pipeline.tokenizer, [condition.text], "the text")
    source = to_model(photo, options.resolution)[None]
    streams = BOTH if pipeline.conditioner is None else pipeline.conditioner.streams
    decoded = pipeline(
        source,
        condition.text,
        condition.image_feature if streams.image else None,
        condition.text_feature if streams.text else None,
        num_inference_steps=options.steps,
        guidance_scale=options.cfg_text,
        image_guidance_scale=options.cfg_image,
        generator=item_generator(options.seed, CLIP, ACTION),
        output_type="pt",
    ).images[0]
    return Image.fromarray(to_frame(decoded, photo.height, photo.width, "clamp"))
