"""`LegoPipeline`: a frame, a description and stage-1 features in; the action frame out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from inspect import signature
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    DiffusionPipeline,
    EulerAncestralDiscreteScheduler,
    ImagePipelineOutput,
    SchedulerMixin,
    StableDiffusionInstructPix2PixPipeline,
    UNet2DConditionModel,
)
from diffusers.image_processor import VaeImageProcessor
from diffusers.utils.torch_utils import randn_tensor
from einops import rearrange
from jaxtyping import Float
from PIL import Image
from torch import Generator, Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from egogen.errors import UserError
from ldm.checkpoints.source import load_parts
from ldm.checkpoints.stated_sizes import Sizes
from ldm.conditioner import Conditioner, embed
from ldm.diffusion.choices import PUBLISHED
from ldm.diffusion.sampler import make_scheduler
from ldm.diffusion.schedule import TRAINING_SCHEDULE
from ldm.guidance import build_context, guide
from ldm.networks.architecture import Parts
from ldm.networks.attention import fixed_context, is_plain
from ldm.networks.shapes import LATENT_SCALE, Streams
from ldm.networks.text import make_tokenizer

Images = Image.Image | Sequence[Image.Image] | Tensor


class LegoPipeline(DiffusionPipeline):
    """Draws action frames by guided sampling; without VLLM features it is InstructPix2Pix.

    Args:
        vae: Stable Diffusion's autoencoder.
        text_encoder: CLIP's text encoder psi.
        tokenizer: its tokenizer.
        unet: 8 input channels, the noisy latent and the source latent.
        scheduler: the published one is `ldm.diffusion.sampler.LogLinearEulerAncestral`.
        conditioner: projects VLLM features; None for InstructPix2Pix.
    """

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

    @classmethod
    def from_parts(cls, parts: Parts, scheduler: str = PUBLISHED) -> LegoPipeline:
        """Wraps loaded networks, in evaluation mode."""
        for module in parts:
            if module is not None:
                module.eval()
        return cls(
            vae=parts.vae,
            text_encoder=parts.text_encoder,
            tokenizer=make_tokenizer(),
            unet=parts.unet,
            scheduler=make_scheduler(scheduler),
            conditioner=parts.conditioner,
        )

    @classmethod
    def from_single_file(cls, ckpt: str | Path, config: Sizes = None, use_ema: bool = True) -> LegoPipeline:
        """Loads a published `.ckpt` (Stable Diffusion 1.5, InstructPix2Pix, LEGO) or one of our training.

        Args:
            ckpt: the file.
            config: sizes, or a YAML file or mapping with some of them (ours, or a CompVis one); what it does
                not say is read off the tensors.
            use_ema: take the moving averages where the file has them.

        Raises:
            UserError: see `ldm.checkpoints.source.load_parts`.
        """
        return cls.from_parts(load_parts(Path(ckpt), config, use_ema))

    @torch.no_grad()
    def __call__(  # noqa: PLR0913 - the arguments of diffusers' pipelines, and ours
        self,
        image: Images,
        prompt: str | Sequence[str],
        vllm_image_features: Float[Tensor, "b i llm"] | None = None,
        vllm_text_features: Float[Tensor, "b t llm"] | None = None,
        num_inference_steps: int = 100,
        guidance_scale: float = 7.5,
        image_guidance_scale: float = 1.5,
        generator: Generator | list[Generator] | None = None,
        latents: Float[Tensor, "b 4 h w"] | None = None,
        noise: Float[Tensor, "n b 4 h w"] | None = None,
        output_type: str = "pil",
    ) -> ImagePipelineOutput:
        """Draws a batch of action frames.

        Args:
            image: source frames, PIL (each side a multiple of the VAE's factor) or [b, 3, h, w] in [-1, 1].
            prompt: one description a frame.
            vllm_image_features: H_i, [b, 256, d].
            vllm_text_features: H_t, [b, 77, d].
            num_inference_steps: sampling steps.
            guidance_scale: s_T.
            image_guidance_scale: s_I.
            generator: draws the noise; a list gives each frame its own.
            latents: start noise with standard deviation 1.
            noise: every random draw, [steps + 1, b, 4, h, w]; entry 0 is the start.
            output_type: `pil`, `np` [b, h, w, 3] in [0, 1], `pt` [b, 3, h, w] in about [-1, 1], `latent`.

        Returns:
            An `ImagePipelineOutput` with `images`.

        Raises:
            UserError: counts, sizes or features do not belong together.
        """
        # 1. Check and encode the conditions, each once.
        source = self._source(image)
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        self._check(source, prompts)
        check_output(noise, num_inference_steps, output_type)
        context, null = self.encode_context(prompts, vllm_image_features, vllm_text_features)
        source_latent = self.vae.encode(source).latent_dist.mode()  # b 4 h w, not scaled (published)
        images = torch.cat([source_latent, source_latent, torch.zeros_like(source_latent)])

        # 2. Start from noise.
        self.scheduler.set_timesteps(num_inference_steps, device=self.device)
        if noise is not None:
            latents = noise[0].to(source_latent)
        elif latents is None:
            latents = randn_tensor(source_latent.shape, generator, self.device, source_latent.dtype)
        latents = latents.to(source_latent) * self.scheduler.init_noise_sigma

        # 3. Denoise: (I, T), (I, 0) and (0, 0) in one batch.
        with self._predictor(context, null) as predict:
            for index, t in enumerate(self.progress_bar(self.scheduler.timesteps)):
                scaled = self.scheduler.scale_model_input(torch.cat([latents] * 3), t)
                predicted = predict(torch.cat([scaled, images], dim=1), t)
                full, image_only, nothing = predicted.chunk(3)
                guided = guide(full, image_only, nothing, guidance_scale, image_guidance_scale)
                draws = None if noise is None else noise[index + 1].to(latents)
                latents = self.scheduler.step(guided, t, latents, **self._step_options(generator, draws))[0]

        # 4. Decode.
        if output_type == "latent":
            return ImagePipelineOutput(images=latents)
        decoded = self.vae.decode((latents / LATENT_SCALE).to(self.vae.dtype)).sample  # b 3 h w
        if output_type == "pt":
            return ImagePipelineOutput(images=decoded)
        return ImagePipelineOutput(images=VaeImageProcessor().postprocess(decoded.float(), output_type))

    @contextmanager
    def quiet(self) -> Iterator[LegoPipeline]:
        """Hides the per-step bar for as long as the block runs."""
        before = getattr(self, "_progress_bar_config", {})
        self.set_progress_bar_config(disable=True)
        try:
            yield self
        finally:
            self.set_progress_bar_config(**before)

    def _source(self, image: Images) -> Float[Tensor, "b 3 h w"]:
        if isinstance(image, Tensor):
            return image.to(self.vae.device, self.vae.dtype)
        frames = [image] if isinstance(image, Image.Image) else list(image)
        pixels = [torch.from_numpy(np.array(frame.convert("RGB"))) for frame in frames]
        if len({frame.shape for frame in pixels}) > 1:
            raise UserError("image: the frames of one batch must be of one size")
        scaled = rearrange(torch.stack(pixels), "b h w c -> b c h w") / 127.5 - 1
        return scaled.to(self.vae.device, self.vae.dtype)

    def _check(self, source: Float[Tensor, "b 3 h w"], prompts: list[str]) -> None:
        if len(prompts) != len(source):
            raise UserError(f"prompt: got {len(prompts)} for {len(source)} images, expected one each")
        factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        if source.shape[-1] % factor or source.shape[-2] % factor:
            size = f"{source.shape[-1]} x {source.shape[-2]}"
            raise UserError(f"image: got {size}, expected sides that are multiples of {factor}; resize it")

    @torch.no_grad()
    def encode_context(
        self,
        prompts: Sequence[str],
        image_features: Float[Tensor, "b i llm"] | None = None,
        text_features: Float[Tensor, "b t llm"] | None = None,
    ) -> tuple[Float[Tensor, "b n ctx"], Float[Tensor, "1 n ctx"]]:
        """Builds the conditioning tokens and those of the null condition.

        The two are what a stock InstructPix2Pix pipeline takes as `prompt_embeds` and, repeated for each
        frame, as `negative_prompt_embeds`.

        Raises:
            UserError: the features are not those that the checkpoint takes.
        """
        text = embed(self.text_encoder, self.tokenizer, prompts)  # b 77 ctx
        null_text = embed(self.text_encoder, self.tokenizer, [""])
        vllm = None
        given = Streams(image_features is not None, text_features is not None)
        if any(given):
            if self.conditioner is None:
                raise UserError("vllm features are given, but this checkpoint has no conditioner for them")
            wanted = self.conditioner.streams
            if given != wanted:
                both = "give both or neither" if all(wanted) else f"this checkpoint takes {wanted} alone"
                raise UserError(f"vllm_image_features and vllm_text_features: {both}")
            features = (None if part is None else part.to(text) for part in (image_features, text_features))
            vllm = self.conditioner(*features)  # b 333 ctx
        everything = torch.ones(1, dtype=torch.bool, device=text.device)
        null = build_context(null_text, null_text, None if vllm is None else vllm[:1], drop_text=everything)
        return build_context(text, null_text, vllm), null

    @contextmanager
    def _predictor(
        self, context: Float[Tensor, "b t ctx"], null: Float[Tensor, "1 t ctx"]
    ) -> Iterator[Callable[[Tensor, Tensor], Tensor]]:
        """Gives the noise predictor for (I, T), (I, 0), (0, 0); their contexts stay the same at all steps."""
        count, dtype = len(context), self.unet.dtype
        distinct = torch.cat([context, null]).to(dtype)  # b+1 t ctx
        rows = torch.tensor([*range(count), *[count] * (2 * count)], device=context.device)

        def predict(sample: Tensor, t: Tensor) -> Tensor:
            return self.unet(sample.to(dtype), t, tokens).sample.to(sample.dtype)

        if is_plain(self.unet):
            # The layers ignore these; the UNet wants some.
            tokens = distinct[:1].expand(3 * count, -1, -1)
            with fixed_context(self.unet, distinct, rows):
                yield predict
        else:
            tokens = distinct[rows]
            yield predict

    def to_instruct_pix2pix(self) -> StableDiffusionInstructPix2PixPipeline:
        """The same networks as a stock InstructPix2Pix pipeline.

        Given what `encode_context` returns, it draws LEGO's frames; its Euler ancestral steps interpolate
        sigma and not its logarithm, so that they agree with ours closely and not exactly.
        """
        return StableDiffusionInstructPix2PixPipeline(
            vae=self.vae,
            text_encoder=self.text_encoder,
            tokenizer=self.tokenizer,
            unet=self.unet,
            scheduler=EulerAncestralDiscreteScheduler(**TRAINING_SCHEDULE, timestep_spacing="linspace"),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )

    def save_instruct_pix2pix(self, folder: str | Path) -> None:
        """Writes a stock InstructPix2Pix pipeline and beside it, in `conditioner/`, the conditioner."""
        self.to_instruct_pix2pix().save_pretrained(folder)
        if self.conditioner is not None:
            self.conditioner.save_pretrained(Path(folder) / "conditioner")

    def _step_options(
        self, generator: Generator | list[Generator] | None, draws: Tensor | None
    ) -> dict[str, object]:
        accepted = signature(self.scheduler.step).parameters
        options = {"generator": generator, "noise": draws, "return_dict": False}
        return {name: value for name, value in options.items() if name in accepted}


def check_output(noise: Float[Tensor, "n b 4 h w"] | None, steps: int, output_type: str) -> None:
    """Raises a `UserError` if there are not as many draws as steps want, or the type is none of ours."""
    if noise is not None and len(noise) != steps + 1:
        raise UserError(f"noise: got {len(noise)} entries for {steps} steps, expected {steps + 1}")
    if output_type not in ("pil", "np", "pt", "latent"):
        raise UserError(f"output_type {output_type!r}: allowed are pil, np, pt and latent")
