"""`LegoPipeline`: a frame, a description and stage-1 features in; the action frame out."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from inspect import signature
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    ImagePipelineOutput,
    SchedulerMixin,
    UNet2DConditionModel,
)
from diffusers.image_processor import VaeImageProcessor
from diffusers.utils.torch_utils import randn_tensor
from jaxtyping import Float
from torch import Generator, Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from egogen.errors import check
from egogen.progress import Progress
from ldm.checkpoints.source import load_parts
from ldm.checkpoints.stated_sizes import Sizes
from ldm.conditioner import Conditioner, embed
from ldm.denoiser import denoiser
from ldm.diffusion.choices import PUBLISHED, Timesteps, check_interval, check_scale, check_steps
from ldm.diffusion.sampler import make_scheduler, noise_levels, set_timesteps
from ldm.guidance import Guidance, Interval, build_context
from ldm.networks.architecture import Parts
from ldm.networks.scales import distilled_of
from ldm.networks.shapes import LATENT_SCALE
from ldm.networks.text import make_tokenizer, unknown_words
from ldm.pipeline_inputs import (
    STEP_TENSORS,
    Images,
    StepEnd,
    StepEnds,
    check_distilled,
    check_drawn,
    check_features,
    check_noise,
    check_output,
    frames_of,
    latent_shape,
    negatives_of,
    prompts_of,
)
from ldm.pipeline_saving import SavedPipeline

log = logging.getLogger(__name__)


class LegoPipeline(SavedPipeline):
    """Draws action frames by guided sampling; without VLLM features it is InstructPix2Pix.

    Args:
        vae: Stable Diffusion's autoencoder.
        text_encoder: CLIP's text encoder psi.
        tokenizer: its tokenizer.
        unet: 8 input channels, the noisy latent and the source latent.
        scheduler: the published one is `ldm.diffusion.sampler.LogLinearEulerAncestral`; a checkpoint that was
            distilled into phases is drawn by DDIM with "trailing" spacing.
        conditioner: projects VLLM features; None for InstructPix2Pix.

    Attributes:
        passes: of the UNet, a frame, in the last drawing.
        unknown: words of the prompts so far that the checkpoint does not know.
        null_text: psi(""), `encode_nothing()`, of a text encoder that stays as it is; None has every drawing
            encode it anew, a twentieth of one in four passes.
    """

    passes: int = 0

    _callback_tensor_inputs = list(STEP_TENSORS)  # noqa: RUF012 - diffusers' protocol
    model_cpu_offload_seq = "text_encoder->conditioner->vae->unet->vae"
    _optional_components = ["conditioner"]  # noqa: RUF012 - diffusers' protocol

    def __init__(
        self,
        vae: AutoencoderKL,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        unet: UNet2DConditionModel,
        scheduler: SchedulerMixin,
        conditioner: Conditioner | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            unet=unet,
            scheduler=scheduler,
            conditioner=conditioner,
        )
        self.null_text: Tensor | None = None
        self.unknown: set[str] = set()

    @classmethod
    def from_parts(cls, parts: Parts, scheduler: str = PUBLISHED) -> LegoPipeline:
        """Wraps loaded networks, in evaluation mode.

        Raises:
            UserError: a checkpoint of phases cannot be drawn by the scheduler.
        """
        for module in parts:
            if module is not None:
                module.eval()
        stated = distilled_of(parts.unet)
        return cls(
            vae=parts.vae,
            text_encoder=parts.text_encoder,
            tokenizer=make_tokenizer(),
            unet=parts.unet,
            scheduler=make_scheduler(stated.scheduler(scheduler) if stated else scheduler),
            conditioner=parts.conditioner,
        )

    @classmethod
    def from_single_file(
        cls,
        ckpt: str | Path,
        config: Sizes = None,
        use_ema: bool = True,
        torch_dtype: torch.dtype | None = None,
    ) -> LegoPipeline:
        """Loads a published `.ckpt` (Stable Diffusion 1.5, InstructPix2Pix, LEGO) or one of our training.

        Args:
            ckpt: the file.
            config: sizes, or a YAML file or mapping with some of them (ours, or a CompVis one); what it does
                not say is read off the tensors.
            use_ema: take the moving averages where the file has them.
            torch_dtype: of the weights, such as torch.bfloat16; by default 32 bits.

        Raises:
            UserError: see `ldm.checkpoints.source.load_parts`.
        """
        made = cls.from_parts(load_parts(Path(ckpt), config, use_ema))
        return made if torch_dtype is None else made.to(torch_dtype)

    @torch.no_grad()
    def __call__(  # noqa: PLR0913 - the arguments of diffusers' pipelines, and ours
        self,
        image: Images,
        prompt: str | Sequence[str],
        vllm_image_features: Tensor | None = None,
        vllm_text_features: Tensor | None = None,
        num_inference_steps: int = 100,
        guidance_scale: float = 7.5,
        image_guidance_scale: float = 1.5,
        guidance_interval: Sequence[float] | None = None,
        image_guidance_interval: Sequence[float] | None = None,
        timesteps: Timesteps = "own",
        generator: Generator | list[Generator] | None = None,
        latents: Tensor | None = None,
        noise: Tensor | None = None,
        output_type: str = "pil",
        check_finite: bool = True,
        negative_prompt: str | Sequence[str] | None = None,
        num_images_per_prompt: int = 1,
        callback_on_step_end: StepEnd | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> ImagePipelineOutput:
        """Draws a batch of action frames.

        Args:
            image: source frames, PIL (each side a multiple of the VAE's factor) or [b, 3, h, w] in [-1, 1].
            prompt: one description a frame.
            vllm_image_features: H_i, [b, 256, d].
            vllm_text_features: H_t, [b, 77, d].
            num_inference_steps: sampling steps.
            guidance_scale: s_T; of a distilled checkpoint its input, within what it was distilled for.
            image_guidance_scale: s_I, likewise.
            guidance_interval: noise levels low < sigma <= high at which s_T acts, by default all;
                elsewhere it is 1.
            image_guidance_interval: those at which s_I acts.
            timesteps: the scheduler's own, or `ays`, ten of "Align Your Steps" (Sabour et al. 2024).
            generator: draws the noise; a list gives each drawn frame its own.
            latents: start noise with standard deviation 1, [b, 4, h, w] of the drawn frames.
            noise: every random draw, [steps + 1, b, 4, h, w]; entry 0 is the start. Not with a scheduler
                whose steps draw noise of their own, such as `lcm`.
            output_type: `pil`, `np` [b, h, w, 3] in [0, 1], `pt` [b, 3, h, w] in about [-1, 1], `latent`.
            check_finite: False returns drawn frames that are not finite, for a caller who looks at each.
            negative_prompt: what to draw away from in place of the empty text; one, or one a frame.
            num_images_per_prompt: drawn frames for each source frame, one behind the other.
            callback_on_step_end: is called as (pipeline, step from 0, timestep, tensors by name) after each
                step; `latents` in what it returns take the place of the step's, what it raises ends the
                drawing.
            callback_on_step_end_tensor_inputs: the names: `latents`, and `clean_latents`, those that the
                step's prediction implies, both [b, 4, h, w].

        Returns:
            An `ImagePipelineOutput` with `images`.

        Raises:
            UserError: counts, sizes or features do not belong together, a value is out of its range, or a
                drawn frame is not finite.
        """
        # 1. Check and encode the conditions, each once.
        check_steps("num_inference_steps", num_inference_steps)
        check_scale("guidance_scale", guidance_scale)
        check_scale("image_guidance_scale", image_guidance_scale)
        check_interval("guidance_interval", guidance_interval)
        check_interval("image_guidance_interval", image_guidance_interval)
        check_output(output_type)
        check("num_images_per_prompt", num_images_per_prompt, "at least 1", num_images_per_prompt >= 1)
        step_end = StepEnds(self, callback_on_step_end, callback_on_step_end_tensor_inputs)
        intervals = Interval.of(guidance_interval), Interval.of(image_guidance_interval)
        guidance = Guidance(guidance_scale, image_guidance_scale, *intervals)
        check_distilled(
            distilled_of(self.unet), self.scheduler, num_inference_steps, guidance, negative_prompt
        )
        factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        source = frames_of(image, factor).to(self.vae.device, self.vae.dtype)
        prompts = prompts_of(prompt, len(source))
        count, *sides = latent_shape(source, factor)
        check_noise(
            latents,
            noise,
            generator,
            num_inference_steps,
            (count * num_images_per_prompt, *sides),
            self.scheduler,
        )
        context, null = self.encode_context(prompts, vllm_image_features, vllm_text_features, negative_prompt)
        source_latent = self.vae.encode(source).latent_dist.mode().float()  # b 4 h w, not scaled (published)
        context, source_latent = (
            each.repeat_interleave(num_images_per_prompt, dim=0) for each in (context, source_latent)
        )

        # 2. Start from noise.
        set_timesteps(self.scheduler, num_inference_steps, timesteps, self.device)
        if noise is not None:
            latents = noise[0].to(source_latent)
        elif latents is None:
            latents = randn_tensor(source_latent.shape, generator, self.device, source_latent.dtype)
        latents = latents.to(source_latent) * self.scheduler.init_noise_sigma

        # 3. Denoise.
        steps = list(zip(self.scheduler.timesteps, noise_levels(self.scheduler), strict=True))
        with denoiser(self.unet, context, null, source_latent, guidance) as predict:
            for index, (t, sigma) in enumerate(self.progress_bar(steps)):
                scaled = self.scheduler.scale_model_input(latents, t)
                guided = predict(scaled, t, sigma)
                draws = None if noise is None else noise[index + 1].to(latents)
                latents = self.scheduler.step(guided, t, latents, **self._step_options(generator, draws))[0]
                latents = step_end(index, t, latents, partial(implied, scaled, guided, sigma))

        self.passes = predict.passes

        # 4. Decode.
        decoded = latents
        if output_type != "latent":
            decoded = self.vae.decode((latents / LATENT_SCALE).to(self.vae.dtype)).sample.float()  # b 3 h w
        if check_finite:
            check_drawn(decoded)
        if output_type in ("latent", "pt"):
            return ImagePipelineOutput(images=decoded)
        return ImagePipelineOutput(images=VaeImageProcessor().postprocess(decoded.float(), output_type))

    def progress_bar(self, iterable: Iterable[object] | None = None, total: int | None = None) -> Progress:
        """Over the steps of a drawing."""
        how = {"desc": "draw", "unit": "step", **getattr(self, "_progress_bar_config", {})}
        return Progress(iterable, total=total, **how)

    @contextmanager
    def quiet(self) -> Iterator[LegoPipeline]:
        """Hides the per-step bar for as long as the block runs."""
        before = getattr(self, "_progress_bar_config", {})
        self.set_progress_bar_config(disable=True)
        try:
            yield self
        finally:
            self.set_progress_bar_config(**before)

    @torch.no_grad()
    def encode_context(
        self,
        prompts: Sequence[str],
        image_features: Tensor | None = None,
        text_features: Tensor | None = None,
        negative_prompt: str | Sequence[str] | None = None,
    ) -> tuple[Float[Tensor, "b n ctx"], Float[Tensor, "u n ctx"]]:
        """Builds the conditioning tokens and those of the null condition, one for all frames or one a frame.

        The two are what a stock InstructPix2Pix pipeline takes as `prompt_embeds` and, repeated for each
        frame, as `negative_prompt_embeds`.

        Raises:
            UserError: the features are not those that the checkpoint takes, or there is another number of
                negative prompts.
        """
        check_features(image_features, text_features, self.conditioner, len(prompts))
        self._say_unknown(prompts)
        text = embed(self.text_encoder, self.tokenizer, prompts)  # b 77 ctx
        null_text = self.encode_nothing() if self.null_text is None else self.null_text
        vllm = None
        if self.conditioner is not None and (image_features is not None or text_features is not None):
            features = (None if part is None else part.to(text) for part in (image_features, text_features))
            vllm = self.conditioner(*features)  # b 333 ctx
        negatives = null_text
        if negative_prompt is not None:
            negatives = embed(self.text_encoder, self.tokenizer, negatives_of(negative_prompt, len(prompts)))
        nothing = None if vllm is None else torch.zeros_like(vllm[: len(negatives)])
        return build_context(text, null_text, vllm), build_context(negatives, null_text, nothing)

    @torch.no_grad()
    def encode_nothing(self) -> Float[Tensor, "1 77 ctx"]:
        """psi(""), the text of the null condition."""
        return embed(self.text_encoder, self.tokenizer, [""])

    def _say_unknown(self, prompts: Sequence[str]) -> None:
        """Tells of words that the checkpoint does not know, each once."""
        table = self.text_encoder.get_input_embeddings().weight
        new = [word for word in unknown_words(table, self.tokenizer, prompts) if word not in self.unknown]
        self.unknown.update(new)
        if new:
            log.warning(
                "the checkpoint does not know %s, and reads nothing there; use the words that it was "
                "trained on", ", ".join(map(repr, new)),
            )  # fmt: skip

    def _step_options(
        self, generator: Generator | list[Generator] | None, draws: Tensor | None
    ) -> dict[str, object]:
        accepted = signature(self.scheduler.step).parameters
        options = {"generator": generator, "noise": draws, "return_dict": False}
        return {name: value for name, value in options.items() if name in accepted}


def implied(
    scaled: Float[Tensor, "b 4 h w"], noise: Float[Tensor, "b 4 h w"], sigma: float
) -> Float[Tensor, "b 4 h w"]:
    """The clean latents that a prediction implies: x = (x0 + sigma e) / sqrt(1 + sigma^2), solved for x0."""
    return scaled * (1 + sigma**2) ** 0.5 - sigma * noise
