"""Draws one action frame: a photo and an instruction in, the frame out.

Without stage 1 the instruction itself guides the drawing, as in InstructPix2Pix. With --vllm the fine-tuned
VLLM first turns it into a description and features (as a separate process, in stage 1's environment);
features that are there already are given by --image-feature and --text-feature.
"""

from __future__ import annotations

import argparse
import logging
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from egogen.cli import parser, run
from egogen.errors import UserError, check
from egogen.features import fit_tokens, read_image_feature, read_text_feature
from egogen.files import atomic_open, read_json, write_json
from egogen.frames import read_frame
from egogen.layout import feature_path
from ldm.checkpoints.source import load_parts
from ldm.conditioner import BOTH
from ldm.data.noise import item_generator
from ldm.diffusion.sampler import PUBLISHED
from ldm.networks.devices import HELP, find_device
from ldm.networks.pixels import to_frame, to_model
from ldm.pipeline import LegoPipeline

log = logging.getLogger(__name__)
FORMATS = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".webp": "WEBP"}
CLIP, ACTION, FRAME = "photo", "0", "photo.png"


class Condition(NamedTuple):
    """What guides the drawing besides the photo: a text, and stage 1's features if there are any."""

    text: str
    image_feature: Float[Tensor, "1 256 d"] | None = None
    text_feature: Float[Tensor, "1 77 d"] | None = None


def arguments() -> argparse.ArgumentParser:
    """The reference's flags, and ours."""
    made = parser("python -m ldm.edit", __doc__)
    made.add_argument("--input", type=Path, required=True, help="the photo")
    made.add_argument("--prompt", required=True, help="the action, such as 'open the drawer'")
    made.add_argument("--output", type=Path, default=Path("action.png"), help=".png, .jpg or .webp")
    made.add_argument("--ckpt", type=Path, required=True, help="checkpoint, a file or a diffusers folder")
    made.add_argument("--config", type=Path, help="YAML with what no tensor of a file tells [read off it]")
    made.add_argument("--steps", type=int, default=100, help="sampling steps")
    made.add_argument("--resolution", type=int, default=256, help="side of the square that is drawn")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--cfg-text", type=float, default=7.5, help="guidance by text and features, s_T")
    made.add_argument("--cfg-image", type=float, default=1.5, help="guidance by the photo, s_I")
    made.add_argument("--scheduler", default=PUBLISHED, help="or dpmpp_2m, unipc, ddim, euler ...")
    made.add_argument("--vllm", type=Path, help="folder of a fine-tuned VLLM")
    made.add_argument(
        "--vllm-python", type=Path, default=Path(".venvs/vllm/bin/python"), help="Python of stage 1"
    )
    made.add_argument("--image-feature", type=Path, help="image feature file of the photo")
    made.add_argument("--text-feature", type=Path, help="text feature file of the description in --prompt")
    made.add_argument("--device", default="auto", help=HELP)
    made.add_argument("--no-ema", action="store_true", help="the last weights, not their moving average")
    return made


def main(argv: Sequence[str] | None = None) -> None:
    """Parses, describes if asked to, draws, writes."""
    args = arguments().parse_args(argv)
    check_arguments(args)
    device = find_device(args.device)
    photo = read_frame(args.input)
    pipeline = load_pipeline(args, device)
    condition = read_condition(args)
    frame = draw(pipeline, photo, condition, args)
    with atomic_open(args.output) as file:
        frame.save(file, format=FORMATS[args.output.suffix.lower()])
    log.info("wrote %s, %d x %d", args.output, frame.width, frame.height)


def check_arguments(args: argparse.Namespace) -> None:
    """Names what does not make sense before any work.

    Raises:
        UserError: a value is outside its range, or flags contradict each other.
    """
    check("--steps", args.steps, "at least 1", args.steps >= 1)
    side = args.resolution
    check("--resolution", side, "a positive multiple of 16", side % 16 == 0 < side)
    kind = args.output.suffix.lower()
    check("--output", str(args.output), f"a name that ends in {', '.join(FORMATS)}", kind in FORMATS)
    if (args.image_feature is None) != (args.text_feature is None):
        raise UserError("--image-feature and --text-feature: give both or neither")
    if args.vllm and args.image_feature:
        raise UserError("--vllm makes what --image-feature and --text-feature name; give one of the two")


def load_pipeline(args: argparse.Namespace, device: torch.device) -> LegoPipeline:
    """Loads the checkpoint onto the device."""
    wants_features = bool(args.vllm or args.image_feature)
    parts = load_parts(
        args.ckpt,
        args.config,
        use_ema=not args.no_ema,
        conditioner=True if wants_features else None,
    )
    return LegoPipeline.from_parts(parts, args.scheduler).to(device)


def read_condition(args: argparse.Namespace) -> Condition:
    """Text and features, from stage 1, from files, or the instruction alone."""
    if args.vllm:
        return ask_vllm(args)
    if args.image_feature:
        return with_features(args.prompt, args.image_feature, args.text_feature)
    return Condition(args.prompt)


def with_features(text: str, image_feature: Path, text_feature: Path) -> Condition:
    """Reads feature files."""
    image = torch.from_numpy(read_image_feature(image_feature)).float()
    fitted = torch.from_numpy(fit_tokens(read_text_feature(text_feature, image.shape[1])))
    return Condition(text, image[None], fitted[None])


def ask_vllm(args: argparse.Namespace) -> Condition:
    """Runs stage 1 on the photo, in its own environment.

    Raises:
        UserError: it cannot be started, or fails.
    """
    if not args.vllm_python.exists():
        raise UserError(
            f"--vllm-python {args.vllm_python}: not found; run bash scripts/setup.sh vllm, or name the "
            "Python of stage 1's environment"
        )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        read_frame(args.input).save(folder / FRAME)
        actions = folder / "actions.json"
        entry = {"image_0": FRAME, "image_1": FRAME, "action": args.prompt}
        write_json(actions, {CLIP: {ACTION: entry}})
        # EPIC's labels go into the question as they are.
        command = [
            str(args.vllm_python), "-m", "llava.describe", "--model-path", str(args.vllm),
            "--image-dir", str(folder), "--action-label", str(actions), "--dataset", "epickitchen",
            "--save-path", str(folder / "texts"), "--save-image-feature-path", str(folder / "image"),
            "--save-text-feature-path", str(folder / "text"), "--seed", str(args.seed),
        ]  # fmt: skip
        done = subprocess.run(command, check=False, stdin=subprocess.DEVNULL)  # noqa: S603 - our own command
        if done.returncode:
            raise UserError(f"--vllm {args.vllm}: stage 1 ended with code {done.returncode}; see above")
        (texts,) = (folder / "texts").glob("chunk_*.json")
        text = read_json(texts)[CLIP][ACTION]["description"]
        log.info("description: %s", text)
        return with_features(
            text, feature_path(folder / "image", FRAME), feature_path(folder / "text", FRAME)
        )


def draw(
    pipeline: LegoPipeline, photo: Image.Image, condition: Condition, args: argparse.Namespace
) -> Image.Image:
    """Draws the frame and gives it the photo's aspect ratio."""
    source = to_model(photo, args.resolution)[None]
    streams = BOTH if pipeline.conditioner is None else pipeline.conditioner.streams
    decoded = pipeline(
        source,
        condition.text,
        condition.image_feature if streams.image else None,
        condition.text_feature if streams.text else None,
        num_inference_steps=args.steps,
        guidance_scale=args.cfg_text,
        image_guidance_scale=args.cfg_image,
        generator=item_generator(args.seed, CLIP, ACTION),
        output_type="pt",
    ).images[0]
    return Image.fromarray(to_frame(decoded, photo.height, photo.width, "clamp"))


if __name__ == "__main__":
    run(main)
