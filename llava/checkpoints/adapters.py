"""Adapters (LoRA, QLoRA) are put on a model for training; `llava.checkpoints.adapter_folder` reads them."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import BitsAndBytesConfig, PreTrainedModel

from egogen.errors import UserError
from llava.checkpoints.lora_arguments import LoraArguments

# LLaMA's linear layers; the projector is trained whole, as LLaVA does; vision and embeddings stay.
TARGETS = r".*language_model.*\.(q|k|v|o|gate|up|down)_proj"
WHOLE = ["multi_modal_projector"]
NOT_QUANTIZED = [r".*vision_tower", r".*multi_modal_projector", "lm_head"]  # matched from the start


def add_adapters(
    model: PreTrainedModel, settings: LoraArguments, base: Path, dtype: torch.dtype = torch.float32
) -> PeftModel:
    """Freezes a model and puts trainable adapters on its language model; the projector is trained too.

    Args:
        model: whole, with its weights or without.
        settings: of the adapters.
        base: the checkpoint folder that they belong to; it is kept beside them.
        dtype: of what is trained. Steps of 16-bit weights would be rounded away, unless the optimiser keeps
            a copy of 32 bits, as DeepSpeed does; under ZeRO-3 it takes them as they are, and computes with
            no two types.
    """
    # Frozen embeddings have no gradient to give to layers that are computed twice.
    model.enable_input_require_grads()
    config = LoraConfig(
        r=settings.lora_r,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules=TARGETS,
        modules_to_save=WHOLE,
        base_model_name_or_path=str(base.resolve()),
    )
    model.name_or_path = str(base.resolve())
    adapted = get_peft_model(model, config)
    assert isinstance(adapted, PeftModel)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(dtype)
    return adapted


def four_bits() -> BitsAndBytesConfig:
    """Frozen weights in 4-bit NormalFloat, constants quantised too (Dettmers et al. 2023).

    Raises:
        UserError: bitsandbytes is not installed.
    """
    if find_spec("bitsandbytes") is None:
        raise UserError("--bits 4: needs bitsandbytes (pip install bitsandbytes); or use --bits 16")
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=NOT_QUANTIZED,
    )
