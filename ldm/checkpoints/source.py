"""Where weights come from: a published single file or a diffusers folder, opened once and read strictly."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from egogen.errors import UserError
from ldm.checkpoints.diffusers_folder import DiffusersFolder
from ldm.checkpoints.lora_run import LoraRun, read_stated
from ldm.checkpoints.safe_reading import LORA
from ldm.checkpoints.single_file import SingleFile
from ldm.checkpoints.stated_sizes import Sizes
from ldm.config.sections import ModelConfig
from ldm.networks.architecture import Parts
from ldm.networks.shapes import BOTH, LATENT_CHANNELS, Architecture, Streams

Source = SingleFile | DiffusersFolder | LoraRun


def open_source(path: Path) -> Source:
    """Opens a file, or a diffusers folder; with a file of adapters, what they were trained on."""
    if path.is_dir():
        return DiffusersFolder(path)
    source = SingleFile(path)
    if LORA not in source.content:
        return source
    base = read_stated(source.content, path).find_base(path)
    return LoraRun(path, source.content, open_source(base))


def sizes_of(source: Source) -> Architecture:
    """Sizes of a checkpoint's networks, with a UNet that takes the source latent too."""
    found = source.sizes()
    return replace(found, unet=replace(found.unet, in_channels=2 * LATENT_CHANNELS))


def with_sizes(model: ModelConfig, source: Source) -> ModelConfig:
    """The settings with a checkpoint's sizes, where they give none themselves."""
    return model if model.architecture else replace(model, architecture=sizes_of(source))


def load_parts(
    path: Path | Source,
    shape: Sizes = None,
    use_ema: bool = True,
    conditioner: bool | None = None,
    new_conditioner: bool = False,
    streams: Streams | None = None,
    inputs: int | None = None,
) -> Parts:
    """Builds the networks and loads a checkpoint into them.

    Args:
        path: a published file or a diffusers folder; or either, opened.
        shape: sizes that it must have; or a YAML file or mapping with what its tensors do not tell; read off
            it if None.
        use_ema: take the moving averages where the file has them.
        conditioner: whether to make one; by default if the file has one.
        new_conditioner: a file without one (Stable Diffusion, InstructPix2Pix) is good; it starts at random.
        streams: those of the conditioner; by default those of the file, or both where there are none.
        inputs: channels that the file's UNet must take, 4 (Stable Diffusion) or 8 (with a source latent); by
            default 8, and a UNet of 4 is widened with zeros.

    Raises:
        UserError: missing or unknown tensors, or tensors of another shape; names the first and counts them.
    """
    source = open_source(path) if isinstance(path, Path) else path
    check_inputs(source.path, source.inputs, inputs)
    sizes = source.sizes(shape)
    sizes = replace(sizes, unet=replace(sizes.unet, in_channels=inputs or 2 * LATENT_CHANNELS))
    has = source.streams
    if has is None if conditioner is None else not conditioner:
        return source.parts(sizes, None, use_ema)
    check_conditioner(source.path, has, new_conditioner, streams)
    return source.parts(sizes, has or streams or BOTH, use_ema)


def check_inputs(path: Path, found: int | None, wanted: int | None) -> None:
    """Raises a `UserError` for a UNet that takes another number of channels."""
    if found is None or wanted in (None, found):
        return
    if wanted == LATENT_CHANNELS:
        advice = "this method needs a plain Stable Diffusion, whose UNet takes 4 and sees no source frame"
    else:
        advice = "this method needs InstructPix2Pix or LEGO, whose UNet takes 8, the source frame with them"
    raise UserError(f"{path}: its UNet takes {found} channels; {advice}")


def check_conditioner(path: Path, has: Streams | None, may_be_new: bool, wanted: Streams | None) -> None:
    """Raises a `UserError` if weights for VLLM features are missing, or are those of other streams."""
    if has is None and not may_be_new:
        raise UserError(
            f"{path}: has no weights for VLLM features (projection_img ...); give a LEGO checkpoint, or set "
            "model.vllm_features=false to use it as InstructPix2Pix"
        )
    if has is not None and wanted is not None and has != wanted:
        raise UserError(
            f"{path}: has weights for {has}, the configuration wants {wanted}; set "
            f"model.image_features={str(has.image).lower()} and model.text_features={str(has.text).lower()}"
        )
