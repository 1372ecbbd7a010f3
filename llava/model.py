"""LEGO's VLLM: CLIP patches, one linear projector, LLaMA; built from published or Hugging Face folders."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import init_empty_weights
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import (
    BitsAndBytesConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaModel,
    PreTrainedTokenizerBase,
)
from transformers.integrations import deepspeed as deepspeed_state
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.utils.import_utils import is_flash_attn_2_available

from egogen.disk import writing
from egogen.errors import UserError, device_fault
from egogen.sharing.model_card import ModelWords
from egogen.sharing.pushing import push
from llava.checkpoints.adapter_folder import Adapters, is_adapter, read_adapters, whole_of
from llava.checkpoints.clip_tower import (
    VisionTower,
    choose_vision_tower,
    load_image_processor,
)
from llava.checkpoints.config_json import (
    LINEAR,
    from_hugging_face,
    from_published,
    is_published,
    patches_across,
    projector_type,
    read_config,
    text_settings,
    vision_settings,
)
from llava.checkpoints.tokenizer import load_tokenizer, save_tokenizer
from llava.checkpoints.vllm_card import write_card
from llava.checkpoints.weights import OF_CLIP, VISION, check_weights, our_name, read_shapes, read_weights
from llava.question.prompts import IGNORED, IMAGE_TOKEN

log = logging.getLogger(__name__)


class LlavaCore(LlavaModel):
    """Transformers' LLaVA without its head; the projector is LEGO's single Linear, if the settings say so."""

    def __init__(self, config: LlavaConfig) -> None:
        super().__init__(config)
        if projector_type(config) == LINEAR:
            widths = vision_settings(config).hidden_size, text_settings(config).hidden_size
            self.multi_modal_projector = nn.Linear(*widths)  # type: ignore[assignment]

    def project(self, pixel_values: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b p d"]:
        """Image features: patches, projected."""
        return self.multi_modal_projector(self.see(pixel_values))

    def see(self, pixel_values: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b p v"]:
        """Patches: CLIP's last hidden state but one, without its class token, in the projector's type."""
        vision = self.vision_tower
        # CLIP is never trained; checkpointing and adapters would have it followed backwards all the same.
        with torch.no_grad():
            seen = vision(pixel_values.to(vision.dtype), output_hidden_states=True).hidden_states
        return seen[self.config.vision_feature_layer][:, 1:].to(self.projector_dtype)

    @property
    def projector_dtype(self) -> torch.dtype:
        """Type of the projector's weights, which with adapters is finer than that of the others."""
        return next(self.multi_modal_projector.parameters()).dtype

    def embed(
        self, input_ids: Int[Tensor, "b t"], pixel_values: Float[Tensor, "b 3 h w"] | None
    ) -> Float[Tensor, "b t d"]:
        """Embeds tokens; the places marked -200 take the image features of their row, in order.

        Rows without such places carry zero pixels. Their features take part with weight 0, so that every
        process of a sharded run works through the same modules.
        """
        places = input_ids == IMAGE_TOKEN
        embedded = self.get_input_embeddings()(input_ids.masked_fill(places, 0))  # [b, t, d]
        if pixel_values is None:
            return embedded
        features = self.project(pixel_values).to(embedded.dtype)  # [b, p, d]
        used = places.any(dim=1)  # [b]
        embedded = embedded.masked_scatter(places[..., None], features[used])
        return embedded if used.all() else embedded + 0 * features[~used].sum()

    def forward(  # type: ignore[override]
        self,
        input_ids: Int[Tensor, "b t"] | None = None,
        pixel_values: Float[Tensor, "b 3 h w"] | None = None,
        inputs_embeds: Float[Tensor, "b t d"] | None = None,
        **kwargs: Any,  # noqa: ANN401 - handed on to LLaMA
    ) -> BaseModelOutputWithPast:
        """Last hidden states (after the final norm) of ids with expanded image places, or of embeddings."""
        if inputs_embeds is None:
            assert input_ids is not None
            inputs_embeds = self.embed(input_ids, pixel_values)
        return self.language_model(inputs_embeds=inputs_embeds, **kwargs)


class Llava(LlavaForConditionalGeneration):
    """The VLLM with its head: logits and the mean cross entropy over all supervised tokens of the batch."""

    def __init__(self, config: LlavaConfig) -> None:
        super(LlavaForConditionalGeneration, self).__init__(config)
        self.model = LlavaCore(config)
        text = text_settings(config)
        self.lm_head = nn.Linear(text.hidden_size, text.vocab_size, bias=False)
        self.loss_type = "ForCausalLM"  # shifted cross entropy
        self.post_init()

    @property
    def patches(self) -> int:
        """Places that one image takes."""
        return patches_across(vision_settings(self.config)) ** 2

    def forward(  # type: ignore[override]
        self,
        input_ids: Int[Tensor, "b t"] | None = None,
        pixel_values: Float[Tensor, "b 3 h w"] | None = None,
        labels: Int[Tensor, "b t"] | None = None,
        num_items_in_batch: int | Tensor | None = None,
        **kwargs: Any,  # noqa: ANN401 - handed on to LLaMA
    ) -> CausalLMOutputWithPast:
        """Logits [b, t, vocabulary] and, with labels (-100 = not supervised), the loss in nats."""
        kwargs.pop("return_dict", None)
        outputs = self.model(input_ids=input_ids, pixel_values=pixel_values, **kwargs)
        logits = self.lm_head(outputs.last_hidden_state)
        loss = None
        if labels is not None:
            if num_items_in_batch is None:
                num_items_in_batch = (labels[:, 1:] != IGNORED).sum()
            # A batch without a supervised token has loss 0, not 0 / 0 (F-S1-11).
            num_items_in_batch = torch.as_tensor(num_items_in_batch).clamp(min=1)
            loss = self.loss_function(
                logits=logits,
                labels=labels,
                vocab_size=self.lm_head.out_features,
                num_items_in_batch=num_items_in_batch,
            )
        rest = {name: value for name, value in outputs.items() if name != "last_hidden_state"}
        return CausalLMOutputWithPast(loss=loss, logits=logits, **rest)


def load(
    path: Path | str,
    *,
    vision_tower: Path | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    quantization: BitsAndBytesConfig | None = None,
    attention: str | None = None,
) -> tuple[Llava, PreTrainedTokenizerBase, CLIPImageProcessorPil]:
    """Loads a VLLM for inference or training.

    Args:
        path: a published LLaVA folder, one that `save` wrote, or adapters, which are merged into their base.
        vision_tower: a CLIP folder to take instead of the one that the checkpoint names.
        device: where the model goes.
        dtype: type of its weights.
        quantization: for training adapters on frozen weights of few bits.
        attention: transformers' name of an attention; by default what `choose_attention` finds.

    Returns:
        The model in evaluation mode, its tokenizer and its image processor.

    Raises:
        UserError: the folder is not a whole checkpoint of that kind; names the file and what is wrong.
    """
    checkpoint = read_checkpoint(Path(path), vision_tower)
    attention = attention or choose_attention(device, dtype)
    if quantization is None and not deepspeed_state.is_deepspeed_zero3_enabled():
        model = build(checkpoint, dtype, attention, torch.device(device))
    else:
        model = build_in_place(checkpoint, dtype, attention, quantization)
    return (
        model.eval(),
        load_tokenizer(checkpoint.folder, text_settings(checkpoint.config).vocab_size),
        load_image_processor(checkpoint.tower.folder, vision_settings(checkpoint.config)),
    )


class Checkpoint(NamedTuple):
    """A folder that was found whole: its settings, its vision tower, and adapters that change its weights."""

    folder: Path
    config: LlavaConfig
    tower: VisionTower
    adapters: Adapters | None = None

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Yields (our name, tensor) of every weight; one file at a time is in memory."""
        return self.adapters.merged(self.own_weights()) if self.adapters else self.own_weights()

    def own_weights(self) -> Iterator[tuple[str, Tensor]]:
        """The same without adapters."""
        own_vision = self.tower.folder == self.folder
        for name, tensor in read_weights(self.folder):
            if own_vision or not name.startswith(VISION):
                yield name, tensor
        if not own_vision:
            yield from read_weights(self.tower.folder, OF_CLIP)


def read_checkpoint(path: Path, vision_tower: Path | None = None) -> Checkpoint:
    """Reads all of a folder but the values of its weights, and checks that it is whole; see `load`.

    Of adapters, `folder` is the checkpoint that they belong to.
    """
    folder = whole_of(path)
    raw = read_config(folder)
    shapes = read_shapes(folder)
    own = {name: tensor for name, tensor in shapes.items() if name.startswith(VISION)}
    if is_published(raw):
        tower = choose_vision_tower(str(raw.get("mm_vision_tower") or ""), folder, own, vision_tower)
        config = from_published(raw, tower.config, folder)
    else:
        config = from_hugging_face(raw, folder)
        config.image_token_id = IMAGE_TOKEN
        tower = VisionTower(vision_settings(config), own, folder)
        if vision_tower is not None:
            tower = choose_vision_tower("", folder, own, vision_tower)
            config.vision_config = tower.config
    rest = {name: tensor for name, tensor in shapes.items() if name not in own}
    expected = {our_name(name): tensor for name, tensor in empty(config).state_dict().items()}
    check_weights({**rest, **tower.shapes}, expected, folder)
    adapters = read_adapters(path, expected) if is_adapter(path) else None
    return Checkpoint(folder, config, tower, adapters)


def empty(config: LlavaConfig) -> Llava:
    """A model without values, on the meta device."""
    # Under ZeRO-3, transformers would share out the parts of a model that it makes, which needs values.
    reference: Any = deepspeed_state._hf_deepspeed_config_weak_ref
    in_use = reference() if deepspeed_state.is_deepspeed_zero3_enabled() else None
    if in_use:
        deepspeed_state.unset_hf_deepspeed_config()
    try:
        with torch.device("meta"):
            return Llava(config)
    finally:
        if in_use:
            deepspeed_state.set_hf_deepspeed_config(in_use)


def build(
    checkpoint: Checkpoint, dtype: torch.dtype, attention: str, device: torch.device | None = None
) -> Llava:
    """Builds a model on its device, file by file: no more than one file is held beside it."""
    with init_empty_weights(include_buffers=False):
        model = Llava._from_config(checkpoint.config, dtype=dtype, attn_implementation=attention)
    names = {our_name(name): name for name in model.state_dict()}  # transformers differ in CLIP's prefix
    for name, tensor in checkpoint.weights():
        # A copy: the file may be mapped into memory, and may change.
        value = tensor.to(device=device or "cpu", dtype=dtype, copy=True)
        model.load_state_dict({names[name]: value}, strict=False, assign=True)
    assert not any(value.is_meta for value in model.state_dict().values())
    model.to(device or "cpu")  # type: ignore[arg-type]  # buffers
    return model


def build_in_place(
    checkpoint: Checkpoint, dtype: torch.dtype, attention: str, quantization: BitsAndBytesConfig | None
) -> Llava:
    """Builds a model by transformers, which under ZeRO-3 keeps a process's share, or quantises on the way."""
    names = {our_name(name): name for name in empty(checkpoint.config).state_dict()}
    more: dict[str, Any] = {} if quantization is None else {"quantization_config": quantization}
    loaded: Any = Llava.from_pretrained(
        None,
        config=checkpoint.config,
        state_dict={names[name]: tensor for name, tensor in checkpoint.weights()},
        dtype=dtype,
        attn_implementation=attention,
        output_loading_info=True,
        **more,
    )
    model: Llava
    model, info = loaded
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    return model


def choose_attention(device: str | torch.device, dtype: torch.dtype) -> str:
    """FlashAttention 2 where it is installed and can run, else torch's own fused attention."""
    half_on_gpu = torch.device(device).type == "cuda" and dtype in (torch.float16, torch.bfloat16)
    fits = half_on_gpu and is_flash_attn_2_available()
    fits = fits and torch.cuda.get_device_capability(torch.device(device)) >= (8, 0)
    chosen = "flash_attention_2" if fits else "sdpa"
    log.info("attention: %s", chosen)
    return chosen


def freeze_vision(model: Llava) -> None:
    """Freezes the vision tower; projector and language model train."""
    for name, parameter in model.named_parameters():
        # Weights of 4 bits are kept as whole numbers, which have no gradient.
        parameter.requires_grad_("vision_tower" not in name and parameter.is_floating_point())


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """Numbers of trained and of frozen parameters."""
    counts = {True: 0, False: 0}
    for parameter in model.parameters():
        # Under ZeRO-3 a parameter is an empty stand-in that knows its true size.
        counts[parameter.requires_grad] += getattr(parameter, "ds_numel", parameter.numel())
    return counts[True], counts[False]


def save(
    model: Llava,
    tokenizer: PreTrainedTokenizerBase,
    processor: CLIPImageProcessorPil,
    folder: Path,
    words: ModelWords | None = None,
) -> None:
    """Writes a Hugging Face folder: settings, safetensors (vision included), tokenizer, preparation, card."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        model.save_pretrained(folder)
        save_tokenizer(tokenizer, folder)
        processor.save_pretrained(folder)
        write_card(folder, model.config, words)


def push_to_hub(
    loaded: tuple[Llava, PreTrainedTokenizerBase, CLIPImageProcessorPil],
    repo: str,
    private: bool | None = None,
    token: str | None = None,
    words: ModelWords | None = None,
) -> str:
    """Sends what `load` returned to the hub, with a card; see `egogen.sharing.pushing.push`.

    Returns:
        The address of the commit.
    """
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "vllm"
        save(*loaded, whole, words)
        return push(whole, repo, private=private, token=token)


def fast_dtype(device: torch.device) -> str:
    """The type of `--dtype auto`: bfloat16 where the device multiplies it in hardware, else float32."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            has = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        has = device.type == "cpu" and torch.cpu._is_amx_tile_supported()
    return "bfloat16" if has else "float32"


def pick_device(name: str, local_rank: int = 0) -> torch.device:
    """The device of that name; `auto` takes the process's own GPU where there is one.

    Raises:
        UserError: torch does not know or have such a device.
    """
    chosen = name
    if name == "auto":
        own = 0 if torch.cuda.device_count() == 1 else local_rank  # a launcher may show each its own alone
        chosen = f"cuda:{own}" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        why = device_fault(name, torch.cuda.is_available(), error)
        raise UserError(f"--device {name!r}: {why}; allowed: auto, cpu, cuda, cuda:N") from None
    return torch.device(chosen)
