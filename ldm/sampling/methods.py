"""What draws a batch of frames, by the name of its method; `ldm.sample` reads, asks it, and writes."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from egogen.errors import check
from ldm.baselines.foreign_pipeline import ForeignPipeline, load_foreign
from ldm.baselines.pair_edit import PairEdit
from ldm.baselines.pipeline_index import PipelineIndex, open_index
from ldm.baselines.proxmasactrl import ProxMasaCtrl
from ldm.baselines.proxnpi import ProxNPI
from ldm.baselines.sdedit import sdedit
from ldm.baselines.source_prompt import SourcePrompts, source_prompts
from ldm.baselines.stable_diffusion import StableDiffusion
from ldm.checkpoints.lora_files import apply_loras
from ldm.checkpoints.source import load_parts
from ldm.checkpoints.stated_sizes import resolution_of
from ldm.config.baselines import ProxConfig, SDEditConfig
from ldm.config.sections import GenerateConfig, SamplingConfig
from ldm.networks.architecture import Parts
from ldm.networks.packing import pack_convolutions
from ldm.networks.precision import Precisions, dtype_of, on_tiles
from ldm.networks.shapes import LATENT_CHANNELS
from ldm.pipeline import LegoPipeline
from ldm.sampling.drawing_plan import Drawer, DrawingPlan, Request
from ldm.sampling.method_names import GUIDED, PIPELINE

log = logging.getLogger(__name__)
PROX: dict[str, type[PairEdit[Any]]] = {"proxnpi": ProxNPI, "proxmasactrl": ProxMasaCtrl}


def make_drawer(plan: DrawingPlan, ckpt: Path) -> Drawer:
    """Loads the plan's checkpoint onto the device and wraps it in its method.

    Raises:
        UserError: the checkpoint is of another kind than the method needs, or settings do not fit the method.
    """
    method, config = plan.method, plan.config
    if method == PIPELINE:
        return partial(draw_foreign, make_foreign(plan, open_index(ckpt)))
    # Attention control changes from step to step, and the UNet would be compiled again at each.
    compiled = config.sampling.compile
    check("sampling.compile", compiled, f"false with --method {method}", not (compiled and method in PROX))
    packed = plan.precisions.unet == "bf16" and on_tiles(plan.device)
    allowed = "false in 16 bits on a CPU, where packed weights are as fast without minutes of compiling"
    check("sampling.compile", compiled, allowed, not (compiled and packed))
    parts = load_parts(
        ckpt,
        config.model.architecture,
        use_ema=plan.use_ema,
        conditioner=config.model.vllm_features,
        streams=config.model.streams,
        # LEGO without features may start from a widened Stable Diffusion: a yardstick of the demo.
        inputs={"lego": None, "ip2p": 2 * LATENT_CHANNELS}.get(method, LATENT_CHANNELS),
    )
    if method in GUIDED:
        apply_loras(parts, config.sampling.loras, ckpt)
    stated, asked = resolution_of(parts), config.data.resolution
    if method in GUIDED and stated not in (None, asked):
        log.warning("%s: was trained at %d and is drawn at data.resolution=%d", ckpt, stated, asked)
    prepare(parts, plan.device, plan.precisions, compiled)
    return wrap(method, parts, config, plan.device)


def make_foreign(plan: DrawingPlan, index: PipelineIndex) -> ForeignPipeline:
    """Loads a pipeline of others."""
    precision, config = plan.precisions.unet, plan.config
    set_products(exact=precision == "32")
    made = load_foreign(index, plan.device, dtype_of(precision))
    return ForeignPipeline(made, {**index.sized(config.data.resolution), **config.pipeline.arguments})


def wrap(method: str, parts: Parts, config: GenerateConfig, device: torch.device) -> Drawer:
    """A method on networks that are at hand."""
    if method in GUIDED:
        pipeline = LegoPipeline.from_parts(parts, config.sampling.scheduler)
        pipeline.null_text = pipeline.encode_nothing()
        return partial(draw_guided, pipeline, config.sampling)
    if method == "sdedit":
        return partial(draw_sdedit, StableDiffusion(parts), config.sdedit)
    settings: ProxConfig = getattr(config, method)
    prompts = source_prompts(settings, device)
    return partial(draw_pairs, PROX[method], StableDiffusion(parts), settings, prompts)


def prepare(parts: Parts, device: torch.device, precisions: Precisions, compiled: bool) -> None:
    """Moves the networks to where and how they run; what stays in 32 bits beside bf16 may use TF32."""
    for module in parts:
        if module is not None:
            nn.Module.to(module, device)
    for module, precision in ((parts.unet, precisions.unet), (parts.vae, precisions.vae)):
        if precision == "bf16":
            nn.Module.to(module, torch.bfloat16)  # diffusers' own tells of layers to be kept: none
        if (precision == "bf16" and device.type == "cpu") or (module is parts.unet and device.type == "cuda"):
            module.to(memory_format=torch.channels_last)
        pack_convolutions(module, precision == "bf16" and on_tiles(device))
    set_products(exact=precisions.unet == "32")
    if compiled:
        parts.unet.compile()
        parts.vae.decoder.compile()


def set_products(exact: bool) -> None:
    """Has 32-bit products be exact, or by TF32 where the device has it."""
    torch.set_float32_matmul_precision("highest" if exact else "high")
    torch.backends.cudnn.allow_tf32 = not exact


def draw_guided(
    pipeline: LegoPipeline, sampling: SamplingConfig, request: Request
) -> Float[Tensor, "b 3 r r"]:
    """Draws by LEGO, or by InstructPix2Pix."""
    with pipeline.quiet():
        images: Tensor = pipeline(
            request.source,
            request.prompts,
            request.image_features,
            request.text_features,
            generator=request.generators,
            output_type="pt",
            check_finite=False,  # the caller names those that are not, and keeps the others
            **{
                **sampling.arguments,
                "guidance_scale": request.scales.text,
                "image_guidance_scale": request.scales.image,
            },
        ).images
    return images


@torch.no_grad()
def draw_sdedit(model: StableDiffusion, settings: SDEditConfig, request: Request) -> Float[Tensor, "b 3 r r"]:
    """Draws by SDEdit, from a draw of the posterior of the source frame (published)."""
    mean, std = model.posterior(request.source)
    shape = (2, *mean.shape[1:])
    draws = torch.stack([torch.randn(shape, generator=own) for own in request.generators], dim=1).to(mean)
    return model.decode(sdedit(model, mean + std * draws[0], request.prompts, draws[1], settings))


@torch.no_grad()
def draw_pairs(
    kind: type[PairEdit[Any]],
    model: StableDiffusion,
    settings: ProxConfig,
    prompts: SourcePrompts,
    request: Request,
) -> Float[Tensor, "b 3 r r"]:
    """Draws by ProxEdit, from the posterior's mean (released); nothing is random."""
    mean, _ = model.posterior(request.source)
    edit = kind(model, mean, prompts(request.source), request.prompts, settings)
    return model.decode(edit.edit()[1])


def draw_foreign(pipeline: ForeignPipeline, request: Request) -> Float[Tensor, "b 3 h w"]:
    """Draws by a pipeline of others."""
    return pipeline.draw(request.source, request.prompts, request.generators)
