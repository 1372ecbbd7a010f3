"""What a caller gives to `LegoPipeline`, checked before anything is computed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from inspect import signature

import numpy as np
import torch
from diffusers import DDIMScheduler, DiffusionPipeline, SchedulerMixin
from einops import rearrange
from PIL import Image
from torch import Generator, Tensor

from egogen.errors import UserError, check_choice, check_text
from egogen.features import IMAGE_TOKENS, TEXT_TOKENS
from egogen.rgb import to_rgb
from ldm.conditioner import Conditioner
from ldm.diffusion.sampler import is_deterministic
from ldm.guidance import ALWAYS, Guidance
from ldm.networks.distilled import Distilled
from ldm.networks.shapes import LATENT_CHANNELS, Streams

Images = Image.Image | Sequence[Image.Image] | Tensor
STEP_TENSORS = ("latents", "clean_latents")  # that a callback can ask for
StepEnd = Callable[[DiffusionPipeline, int, Tensor, dict[str, Tensor]], Mapping[str, Tensor] | None]


def check_output(output_type: str) -> None:
    """Raises a `UserError` for a type of frames that is none of ours."""
    if output_type not in ("pil", "np", "pt", "latent"):
        raise UserError(f"output_type {output_type!r}: allowed are pil, np, pt and latent")


def frames_of(image: Images, factor: int) -> Tensor:
    """Source frames as [b, 3, h, w] in [-1, 1].

    Args:
        image: what the caller gave; pictures of any kind are seen as `egogen.rgb.to_rgb` says.
        factor: pixels to a latent cell, along one side.

    Raises:
        UserError: they are no frames, or not of one size that the VAE takes.
    """
    if not isinstance(image, Tensor):
        pictures = [image] if isinstance(image, Image.Image) else list(image)
        if not pictures or not all(isinstance(each, Image.Image) for each in pictures):
            raise UserError("image: expected a picture, at least one in a list, or a tensor [b, 3, h, w]")
        pixels = [torch.from_numpy(np.array(to_rgb(each, "image"))) for each in pictures]
        if len({frame.shape for frame in pixels}) > 1:
            raise UserError("image: the frames of one batch must be of one size")
        image = rearrange(torch.stack(pixels), "b h w c -> b c h w") / 127.5 - 1
    if image.ndim != 4 or image.shape[1] != 3 or not len(image) or not image.is_floating_point():
        raise UserError(
            f"image: got {image.dtype} of shape {tuple(image.shape)}, expected floats [b, 3, h, w] in [-1, 1]"
        )
    height, width = image.shape[-2:]
    if height % factor or width % factor or not height * width:
        raise UserError(
            f"image: got {width} x {height}, expected sides that are multiples of {factor}; resize it"
        )
    check_finite("image", image)
    return image


def prompts_of(prompt: str | Sequence[str], count: int) -> list[str]:
    """The prompts of so many frames; a `UserError` tells of another number, or of what is no text."""
    prompts = [prompt] if isinstance(prompt, str) else list(prompt)
    if len(prompts) != count:
        raise UserError(f"prompt: got {len(prompts)} for {count} images, expected one each")
    for text in prompts:
        check_text("prompt", text)
    return prompts


def negatives_of(negative_prompt: str | Sequence[str], count: int) -> list[str]:
    """Negative prompts: one for all of so many frames, or one each; a `UserError` for another number."""
    single = isinstance(negative_prompt, str)
    texts = [negative_prompt] if isinstance(negative_prompt, str) else list(negative_prompt)
    if not single and len(texts) != count:
        raise UserError(
            f"negative_prompt: got {len(texts)} for {count} images, expected one text, or one each"
        )
    for text in texts:
        check_text("negative_prompt", text)
    return texts


class StepEnds:
    """Calls back at the end of each step, as diffusers' pipelines do.

    Args:
        pipeline: that draws.
        callback: whom to call, or nobody; a `PipelineCallback` names its tensors itself.
        names: of the tensors that it is given.

    Raises:
        UserError: there is no tensor of a name.
    """

    def __init__(self, pipeline: DiffusionPipeline, callback: StepEnd | None, names: Sequence[str]) -> None:
        self.pipeline, self.callback = pipeline, callback
        self.names = tuple(getattr(callback, "tensor_inputs", names))
        for name in self.names:
            check_choice("callback_on_step_end_tensor_inputs", name, *STEP_TENSORS)

    def __call__(self, step: int, t: Tensor, latents: Tensor, clean: Callable[[], Tensor]) -> Tensor:
        """Tells of a step, and gives the latents to go on with: those of the answer, if it has any."""
        if self.callback is None:
            return latents
        tensors = {"latents": lambda: latents, "clean_latents": clean}
        given = {name: tensors[name]() for name in self.names}
        return (self.callback(self.pipeline, step, t, given) or {}).get("latents", latents)


def check_distilled(
    stated: Distilled | None,
    scheduler: SchedulerMixin,
    steps: int,
    guidance: Guidance,
    negative_prompt: str | Sequence[str] | None = None,
) -> None:
    """Checks what is asked of a distilled checkpoint; any other does it all.

    Args:
        stated: what it was distilled for.
        scheduler: the pipeline's.
        steps: sampling steps.
        guidance: scales, which are its input, and where they act, which it knows nothing of.
        negative_prompt: which it knows nothing of either.

    Raises:
        UserError: it was not distilled for that.
    """
    if stated is None:
        return
    if negative_prompt is not None:
        raise UserError(
            "negative_prompt: a distilled checkpoint is guided by one pass, without it; leave it out"
        )
    stated.check_scales(guidance.text, guidance.image)
    stated.check_steps("num_inference_steps", steps)
    for name in ("text_interval", "image_interval"):
        if getattr(guidance, name) != ALWAYS:
            raise UserError(
                f"{name.replace('text_', 'guidance_').replace('image_', 'image_guidance_')}: a distilled "
                "checkpoint is guided at all noise levels, by one pass; leave it out"
            )
    spacing = scheduler.config.get("timestep_spacing")
    if stated.phases and not (isinstance(scheduler, DDIMScheduler) and spacing == "trailing"):
        raise UserError(
            f"scheduler: got {type(scheduler).__name__} with timestep_spacing {spacing!r}; this checkpoint "
            f'of {stated.phases} phases is drawn by DDIMScheduler with timestep_spacing="trailing"'
        )


def check_noise(
    latents: Tensor | None,
    noise: Tensor | None,
    generator: Generator | list[Generator] | None,
    steps: int,
    shape: tuple[int, ...],
    scheduler: SchedulerMixin,
) -> None:
    """Checks what the caller gives of chance.

    Args:
        latents: start noise.
        noise: all draws.
        generator: one, or one for each frame.
        steps: sampling steps.
        shape: of the frames' latents, [b, 4, h, w].
        scheduler: whose steps may draw.

    Raises:
        UserError: something is of another size, both latents and noise are given, or see `check_draws`.
    """
    if latents is not None and noise is not None:
        raise UserError("latents and noise: give one of the two; entry 0 of noise is the start")
    if noise is not None and len(noise) != steps + 1:
        raise UserError(f"noise: got {len(noise)} entries for {steps} steps, expected {steps + 1}")
    check_draws(noise, scheduler)
    check_shape("latents", latents, shape, "frames, channels, height, width")
    check_shape("noise", noise, (steps + 1, *shape), "steps and one, frames, channels, height, width")
    if isinstance(generator, list) and len(generator) != shape[0]:
        raise UserError(
            f"generator: got a list of {len(generator)} for {shape[0]} images, expected one generator, or "
            "one each"
        )


def check_draws(noise: Tensor | None, scheduler: SchedulerMixin) -> None:
    """Refuses noise in place of every random draw where a scheduler's steps draw some that cannot be given.

    Raises:
        UserError: names the scheduler.
    """
    if noise is None or "noise" in signature(scheduler.step).parameters or is_deterministic(scheduler):
        return
    raise UserError(
        f"noise: the steps of {type(scheduler).__name__} draw noise of their own, which cannot be given; "
        "give latents for the start and a generator for the rest"
    )


def latent_shape(frames: Tensor, factor: int) -> tuple[int, ...]:
    """The shape of the latents of frames."""
    count, _, height, width = frames.shape
    return count, LATENT_CHANNELS, height // factor, width // factor


def check_features(
    image: Tensor | None, text: Tensor | None, conditioner: Conditioner | None, count: int
) -> None:
    """Checks stage 1's features of so many frames.

    Raises:
        UserError: they are not those that the checkpoint takes.
    """
    given = Streams(image is not None, text is not None)
    if not any(given):
        return
    if conditioner is None:
        raise UserError("vllm features are given, but this checkpoint has no conditioner for them")
    wanted = conditioner.streams
    if given != wanted:
        both = "give both or neither" if all(wanted) else f"this checkpoint takes {wanted} alone"
        raise UserError(f"vllm_image_features and vllm_text_features: {both}")
    width, axes = int(conditioner.config.llm_width), "frames, tokens, width of the checkpoint's VLLM"
    check_shape("vllm_image_features", image, (count, IMAGE_TOKENS, width), axes)
    check_shape(
        "vllm_text_features", text, (count, TEXT_TOKENS, width), f"{axes}; egogen.features.fit_tokens pads"
    )


def check_shape(name: str, values: Tensor | None, expected: tuple[int, ...], axes: str) -> None:
    """Raises a `UserError` if a tensor is there and has another shape, or values that are not finite."""
    if values is None:
        return
    if tuple(values.shape) != expected:
        raise UserError(f"{name}: got {tuple(values.shape)}, expected {expected} ({axes})")
    check_finite(name, values)


def check_finite(name: str, values: Tensor) -> None:
    """Raises a `UserError` if some of the values are not finite."""
    bad = int((~values.isfinite()).sum())
    if bad:
        raise UserError(f"{name}: {bad} of {values.numel()} values are not finite, expected numbers")


def check_drawn(frames: Tensor) -> None:
    """Raises a `UserError` that says which drawn frames are not finite."""
    bad = [index for index, frame in enumerate(frames) if not frame.isfinite().all()]
    if bad:
        raise UserError(
            f"drawn frames: not finite, as are {len(bad)} of {len(frames)} (the first is number {bad[0]}); "
            "lower the guidance scales, draw in 32 bits, or take another checkpoint"
        )
