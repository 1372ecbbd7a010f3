"""What stage 2 says of its models in their cards, and the file by which diffusers' own loader finds them."""

from __future__ import annotations

from pathlib import Path

from egogen.files import atomic_open
from egogen.sharing.model_card import HERE, Licence, StageWords
from ldm.checkpoints.diffusers_folder import architecture_of
from ldm.checkpoints.stated_sizes import guidance_of, resolution_of
from ldm.networks.architecture import Parts
from ldm.networks.scales import distilled_of
from ldm.networks.shapes import UNetShape

STEPS, SCALES, SIDE = 100, (7.5, 1.5), 256  # published
BASES = ("stable-diffusion-v1-5/stable-diffusion-v1-5", "timbrooks/instruct-pix2pix")
OPENRAIL = Licence(
    "creativeml-openrail-m", None, "https://huggingface.co/spaces/CompVis/stable-diffusion-license"
)
FRAMES = (
    "What it was trained on has terms of its own: Ego4D a signed agreement, EPIC-KITCHENS-100 CC BY-NC 4.0, "
    "which allows no commercial use; the authors' weights are CC BY 4.0."
)
LIMITS = """\
- Frames are drawn, not seen: they show how an action may look, and prove nothing of a place or person.
- It was made for first-person frames and short actions. Other photos, long texts and words that were not in
  its training give poor frames; hands and small objects are often wrong.
- What is wrong or one-sided in the data and in the models that it derives from is in its frames too."""
USAGE = """from PIL import Image

from ldm.pipeline import LegoPipeline

{here}
lego = LegoPipeline.from_pretrained(HERE)
photo = Image.open("photo.jpg").convert("RGB")
settings = {settings}
frame = lego(photo.resize(({side}, {side})), "open the drawer", **settings).images[0]
frame.resize(photo.size).save("action.png")
"""
STOCK_USAGE = """from diffusers import StableDiffusionInstructPix2PixPipeline
from PIL import Image

{here}
editor = StableDiffusionInstructPix2PixPipeline.from_pretrained(HERE)
photo = Image.open("photo.jpg").convert("RGB")
settings = {settings}
frame = editor("open the drawer", photo.resize(({side}, {side})), **settings).images[0]
frame.resize(photo.size).save("action.png")
"""
# Not imported by name: diffusers would advise to install whatever has the name `ldm` in the package index.
DOOR = '''"""Lets diffusers' own loader find LEGO's pipeline, which is in the package lego-egogen."""

from importlib import import_module

try:
    method = import_module("ldm.pipeline")
except ImportError:
    raise ImportError(
        "LEGO's pipeline needs this project's package lego-egogen[ldm] (its README says how to install it); "
        "the package `ldm` of the package index is another one"
    ) from None


class LegoPipeline(method.LegoPipeline):
    """See `ldm.pipeline.LegoPipeline`."""
'''
DOOR_NAME = "pipeline.py"


def write_door(folder: Path) -> None:
    """Writes the file that `DiffusionPipeline.from_pretrained(folder, custom_pipeline=folder)` reads."""
    with atomic_open(folder / DOOR_NAME) as file:
        file.write(DOOR.encode())


def card_words(parts: Parts, stock: bool = False) -> StageWords:
    """What a card says of these networks; `stock`: of a folder for InstructPix2Pix's own pipeline."""
    side = resolution_of(parts) or SIDE
    published = architecture_of(parts).unet == UNetShape()
    steps, text, image = drawn_by(parts)
    settings = {"num_inference_steps": steps, "guidance_scale": text, "image_guidance_scale": image}
    distilled = distilled_of(parts.unet)
    baked = distilled is not None and distilled.baked
    if stock and baked:  # what is not ours would guide it a second time
        settings = {"num_inference_steps": steps, "guidance_scale": 1.0}
    streams = None if parts.conditioner is None else parts.conditioner.streams
    facts: dict[str, object] = {
        "Frames": f"{side} x {side} pixels",
        "Reads of stage 1": f"{streams}" if streams else "nothing: it is InstructPix2Pix",
        "Steps": steps,
        "Guidance by text and features, by the frame": f"{text:g} and {image:g}"
        + (", in its weights: draw it without guidance" if baked else ""),
        "Parameters of the UNet": f"{sum(each.numel() for each in parts.unet.parameters()):,}",
    }
    where = BASES if published else ()
    return StageWords(
        title="LEGO: egocentric action frame generation",
        what="A latent diffusion model that draws, from a first-person photo and the words for an action, "
        "the frame in which the action is being done: stage 2 of LEGO.",
        facts=facts,
        usage=(STOCK_USAGE if stock else USAGE).format(here=HERE, settings=settings, side=side),
        limits=LIMITS,
        licences=f"{of_bases(published)} {FRAMES} The code that loads it is Apache-2.0.",
        licence=OPENRAIL if published else Licence(),
        base_model=where,
        task="image-to-image",
    )


def of_bases(published: bool) -> str:
    """What is said of the models that it derives from."""
    if published:
        return (
            "It derives from Stable Diffusion 1.5, whose licence (CreativeML OpenRAIL-M) is its own too and "
            "binds who uses it, and from InstructPix2Pix (MIT)."
        )
    return "It is of other sizes than Stable Diffusion 1.5; whose it is must say which licence it has."


def drawn_by(parts: Parts) -> tuple[int, float, float]:
    """Steps, s_T and s_I that it is drawn with."""
    distilled = distilled_of(parts.unet)
    stated = guidance_of(parts) or ([distilled.text[0], distilled.image[0]] if distilled else SCALES)
    steps = distilled.phases if distilled and distilled.phases else STEPS
    return int(steps), float(stated[0]), float(stated[1])
