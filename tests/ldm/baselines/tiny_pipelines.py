"""Stock diffusers pipelines of four kinds, with random weights, as small as they can be built."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiffusionPipeline,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxKontextPipeline,
    FluxTransformer2DModel,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInstructPix2PixPipeline,
    StableDiffusionXLImg2ImgPipeline,
    UNet2DConditionModel,
)
from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from ldm.diffusion.schedule import TRAINING_SCHEDULE
from ldm.networks.architecture import build
from tests.ldm.toy_run import ATTENTIVE

LETTERS = "abcdefghijklmnopqrstuvwxyz"
SIDE = 24  # that img2img states
# What each is called with besides frame and text.
ARGUMENTS: dict[str, dict[str, object]] = {
    "ip2p": {"num_inference_steps": 3, "image_guidance_scale": 1.2},
    "img2img": {"num_inference_steps": 4, "strength": 0.5, "negative_prompt": "a blurred hand"},
    "xl": {"num_inference_steps": 4, "strength": 0.5, "negative_prompt": "a blurred hand"},
    "kontext": {"num_inference_steps": 2, "max_sequence_length": 16, "_auto_resize": False},
}


def tokens() -> CLIPTokenizer:
    """CLIP's tokenizer without words: letters alone, so that it is read at once."""
    ends = {"<|startoftext|>": 0, "<|endoftext|>": 1}
    letters = [f"{letter}{end}" for letter in LETTERS for end in ("", "</w>")]
    vocab = ends | {letter: number for number, letter in enumerate(letters, len(ends))}
    return CLIPTokenizer(vocab=vocab, merges=[], model_max_length=77)


def text_config() -> CLIPTextConfig:
    return CLIPTextConfig(
        hidden_size=32, intermediate_size=32, num_attention_heads=2, num_hidden_layers=1, projection_dim=32,
        vocab_size=len(tokens()), bos_token_id=0, eos_token_id=1,
    )  # fmt: skip


def parts(channels: int) -> dict[str, Any]:
    """Of Stable Diffusion, or InstructPix2Pix."""
    made = build(replace(ATTENTIVE, unet=replace(ATTENTIVE.unet, in_channels=channels)), conditioner=False)
    return {
        "vae": made.vae, "unet": made.unet, "tokenizer": tokens(), "feature_extractor": None,
        "text_encoder": CLIPTextModel(text_config()), "safety_checker": None,
        "requires_safety_checker": False,
    }  # fmt: skip


def ip2p() -> DiffusionPipeline:
    stock = EulerAncestralDiscreteScheduler(**TRAINING_SCHEDULE)
    return StableDiffusionInstructPix2PixPipeline(**parts(8), scheduler=stock)


def img2img(judge: StableDiffusionSafetyChecker | None = None) -> DiffusionPipeline:
    given = parts(4)
    given["unet"].register_to_config(sample_size=SIDE // 2)
    if judge:
        given |= {"safety_checker": judge, "feature_extractor": CLIPImageProcessor(size=8, crop_size=8)}
    scheduler = DDIMScheduler(**TRAINING_SCHEDULE, steps_offset=1, clip_sample=False)
    return StableDiffusionImg2ImgPipeline(**given, scheduler=scheduler)


def harsh() -> StableDiffusionSafetyChecker:
    """A safety checker to which no frame is safe."""
    vision = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 1, "num_hidden_layers": 1}
    config = CLIPConfig(vision_config={**vision, "image_size": 8, "patch_size": 4}, projection_dim=8)
    made = StableDiffusionSafetyChecker(config)
    made.concept_embeds_weights.data.fill_(-2.0)  # thresholds that any cosine exceeds
    return made


def xl() -> DiffusionPipeline:
    unet = UNet2DConditionModel(
        sample_size=16, block_out_channels=(32, 64), layers_per_block=1, norm_num_groups=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), attention_head_dim=(2, 4),
        use_linear_projection=True, addition_embed_type="text_time", addition_time_embed_dim=8,
        transformer_layers_per_block=(1, 1), projection_class_embeddings_input_dim=32 + 5 * 8,
        cross_attention_dim=64,
    )  # fmt: skip
    return StableDiffusionXLImg2ImgPipeline(
        vae=build(ATTENTIVE, conditioner=False).vae, unet=unet, text_encoder=CLIPTextModel(text_config()),
        text_encoder_2=CLIPTextModelWithProjection(text_config()), tokenizer=tokens(),
        tokenizer_2=tokens(), scheduler=EulerDiscreteScheduler(**TRAINING_SCHEDULE),
        requires_aesthetics_score=True, add_watermarker=False,
    )  # fmt: skip


def kontext() -> DiffusionPipeline:
    transformer = FluxTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16,
        num_attention_heads=2, joint_attention_dim=32, pooled_projection_dim=32, axes_dims_rope=[4, 4, 8],
        guidance_embeds=True,
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(8, 16), norm_num_groups=4, latent_channels=4, shift_factor=0.06,
        down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2,
        use_quant_conv=False, use_post_quant_conv=False, scaling_factor=1.5,
    )  # fmt: skip
    letters = [(letter, -2.0) for letter in LETTERS]
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -1.0), *letters]
    t5 = T5Config(vocab_size=len(pieces), d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    return FluxKontextPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(), text_encoder=CLIPTextModel(text_config()),
        text_encoder_2=T5EncoderModel(t5), tokenizer=tokens(),
        tokenizer_2=T5Tokenizer(vocab=pieces, extra_ids=0), transformer=transformer, vae=vae,
    )  # fmt: skip


MADE = {"ip2p": ip2p, "img2img": img2img, "xl": xl, "kontext": kontext}


def write_pipeline(folder: Path, pipeline: DiffusionPipeline) -> Path:
    pipeline.save_pretrained(folder)
    return folder


def write_pipelines(root: Path) -> None:
    """A folder for each kind, by its name."""
    torch.manual_seed(3)
    for name, make in MADE.items():
        write_pipeline(root / name, make())
