"""config.json of a LLaVA folder: published `mm_*` fields and Hugging Face's nested one, either way."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

from egogen.annotations import JsonObject
from egogen.clip_pixels import FEATURE_LAYER
from egogen.errors import UserError, check
from egogen.files import read_json
from llava.checkpoints.weights import HINT, VISION
from llava.question.prompts import IMAGE_TOKEN

LINEAR, TWO_LAYERS = "linear", "mlp2x_gelu"  # LEGO's projector, and that of LLaVA 1.5
CLIP_HEAD_WIDTH = 64  # of every CLIP that OpenAI published

# What a published config.json says beside LLaMA's own fields; the vision tower's name is added.
PUBLISHED_FIELDS: dict[str, object] = {
    "freeze_mm_mlp_adapter": False,
    "image_aspect_ratio": "square",
    "image_grid_pinpoints": None,
    "mm_use_im_patch_token": False,
    "mm_use_im_start_end": False,
    "mm_vision_select_feature": "patch",
    "mm_vision_select_layer": FEATURE_LAYER,
    "tune_mm_mlp_adapter": False,
    "use_mm_proj": True,
}
NOT_LLAMA = {
    *PUBLISHED_FIELDS,
    "_name_or_path",
    "architectures",
    "mm_hidden_size",
    "mm_projector_type",
    "mm_vision_tower",
    "model_type",
}
MOST_LAYERS = 200


def read_config(folder: Path) -> JsonObject:
    """Reads config.json of a LLaVA folder.

    Raises:
        UserError: it is missing, not an object, or of another kind of model.
    """
    path = folder / "config.json"
    if not folder.is_dir():
        raise UserError(f"{folder}: no such checkpoint folder; {HINT}")
    if not path.is_file():
        raise UserError(f"{path}: no such file; {HINT}")
    raw = read_json(path)
    kind = raw.get("model_type") if isinstance(raw, dict) else type(raw).__name__
    if kind not in ("llava", "llava_llama"):
        raise UserError(f"{path}: model_type is {kind!r}, expected 'llava'")
    check_layers(path, raw)
    return dict(raw)


def check_layers(path: Path, raw: JsonObject) -> None:
    """Refuses layers without end: a model is built before its weights are looked at."""
    for prefix in ("", "text_config", "vision_config"):
        part = raw.get(prefix) if prefix else raw
        found = part.get("num_hidden_layers") if isinstance(part, dict) else None
        good = found is None or (type(found) is int and 1 <= found <= MOST_LAYERS)
        check(f"{path}: {prefix and f'{prefix}.'}num_hidden_layers", found, f"1 to {MOST_LAYERS}", good)


def is_published(raw: JsonObject) -> bool:
    """Whether a config.json is in the published form; the folder's name plays no part (F-S1-04)."""
    return "text_config" not in raw


def from_published(raw: JsonObject, vision: CLIPVisionConfig, where: Path) -> LlavaConfig:
    """Turns published settings into Hugging Face's.

    Raises:
        UserError: a setting asks for something that LEGO's model does not have.
    """
    allowed = {
        "mm_vision_select_layer": (FEATURE_LAYER,),
        "mm_vision_select_feature": ("patch",),
        "mm_use_im_start_end": (False,),
        "mm_use_im_patch_token": (False,),
        "image_aspect_ratio": ("square", None),
        "mm_projector_type": (LINEAR, TWO_LAYERS),
    }
    for field, values in allowed.items():
        if raw.get(field, values[0]) not in values:
            raise UserError(f"{where / 'config.json'}: {field} is {raw[field]!r}, expected {values[0]!r}")
    text = LlamaConfig(**{key: value for key, value in raw.items() if key not in NOT_LLAMA})
    projector = raw.get("mm_projector_type", LINEAR)
    return llava_config(text, vision, str(raw.get("mm_vision_tower") or ""), projector)


def from_hugging_face(raw: JsonObject, where: Path) -> LlavaConfig:
    """Reads Hugging Face's settings.

    Raises:
        UserError: they are of a model of other parts, or that sees otherwise.
    """
    config = LlavaConfig.from_dict(dict(raw))
    for part, kind in ((config.text_config, LlamaConfig), (config.vision_config, CLIPVisionConfig)):
        if not isinstance(part, kind):
            raise UserError(
                f"{where / 'config.json'}: holds a {type(part).__name__}, expected a {kind.__name__}"
            )
    wanted = {"vision_feature_layer": FEATURE_LAYER, "vision_feature_select_strategy": "default"}
    for field, value in wanted.items():
        if getattr(config, field) != value:
            raise UserError(
                f"{where / 'config.json'}: {field} is {getattr(config, field)!r}, expected {value!r}"
            )
    return config


def llava_config(
    text: LlamaConfig, vision: CLIPVisionConfig, vision_tower: str, projector: str = LINEAR
) -> LlavaConfig:
    """Settings of LEGO's VLLM: patches of CLIP's last layer but one, image places marked by -200."""
    config = LlavaConfig(
        text_config=text,
        vision_config=vision,
        image_token_index=IMAGE_TOKEN,
        vision_feature_layer=FEATURE_LAYER,
        vision_feature_select_strategy="default",
        image_seq_length=patches_across(vision) ** 2,
        tie_word_embeddings=bool(text.tie_word_embeddings),
    )
    # Fields of the published format that Hugging Face's lacks; they are saved with the others.
    config.mm_vision_tower, config.mm_projector_type = vision_tower, projector  # type: ignore[attr-defined]
    return config


def text_settings(config: LlavaConfig) -> LlamaConfig:
    """LLaMA's part of the settings."""
    assert isinstance(config.text_config, LlamaConfig)
    return config.text_config


def vision_settings(config: LlavaConfig) -> CLIPVisionConfig:
    """CLIP's part of the settings."""
    assert isinstance(config.vision_config, CLIPVisionConfig)
    return config.vision_config


def places(config: LlavaConfig) -> int:
    """How many tokens, images expanded, the language model was made for."""
    text = text_settings(config)
    rope = text.rope_parameters or {}
    stretched = rope.get("rope_type") in ("linear", "dynamic")
    return int(text.max_position_embeddings * (rope.get("factor") or 1 if stretched else 1))


def patches_across(vision: CLIPVisionConfig) -> int:
    """Patches along one side of an image."""
    assert isinstance(vision.image_size, int)
    assert isinstance(vision.patch_size, int)
    return vision.image_size // vision.patch_size


def projector_type(config: LlavaConfig) -> str:
    """`linear` or `mlp2x_gelu`; a folder of plain Hugging Face form does not say and means the latter."""
    return str(getattr(config, "mm_projector_type", TWO_LAYERS))


def to_published(config: LlavaConfig, vision_tower: str, dtype: str) -> JsonObject:
    """Turns our settings into a published config.json whose vision tower is the folder `vision_tower`."""
    text = text_settings(config).to_dict()
    rope = text.pop("rope_parameters", None) or {}
    scaling = rope if rope.get("rope_type", "default") != "default" else None
    return {
        **{key: value for key, value in text.items() if key not in ("dtype", "torch_dtype", "head_dim")},
        **PUBLISHED_FIELDS,
        "architectures": ["LlavaLlamaForCausalLM"],
        "mm_hidden_size": vision_settings(config).hidden_size,
        **({"mm_projector_type": projector} if (projector := projector_type(config)) != LINEAR else {}),
        "mm_vision_tower": vision_tower,
        "model_type": "llava",
        "rope_scaling": scaling,
        "rope_theta": rope.get("rope_theta", 10000.0),
        "torch_dtype": dtype,
    }


def infer_vision(weights: Mapping[str, Tensor], where: Path) -> CLIPVisionConfig:
    """Settings of a vision tower from its weights' shapes, for a checkpoint without its CLIP folder.

    The number of heads leaves no trace in the weights; it follows from CLIP's head width of 64.

    Raises:
        UserError: the weights are not those of a CLIP vision tower of that head width.
    """
    try:
        patches = weights[f"{VISION}embeddings.patch_embedding.weight"]  # [width, 3, patch, patch]
        places = weights[f"{VISION}embeddings.position_embedding.weight"]  # [1 + n * n, width]
        inner = weights[f"{VISION}encoder.layers.0.mlp.fc1.weight"]  # [inner, width]
    except KeyError as error:
        raise UserError(f"{where}: the vision tower lacks {error.args[0]}") from None
    width, _, patch, _ = patches.shape
    if width % CLIP_HEAD_WIDTH:
        raise UserError(
            f"{where}: a vision tower of width {width} needs its CLIP folder, to know its number of heads"
        )
    layers = {name.split(".")[4] for name in weights if name.startswith(f"{VISION}encoder.layers.")}
    return CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=inner.shape[0],
        num_hidden_layers=len(layers),
        num_attention_heads=width // CLIP_HEAD_WIDTH,
        image_size=round((places.shape[0] - 1) ** 0.5) * patch,
        patch_size=patch,
    )
