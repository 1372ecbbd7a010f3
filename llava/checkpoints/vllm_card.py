"""What stage 1 says of its models in their cards."""

from __future__ import annotations

from pathlib import Path

from transformers import LlavaConfig

from egogen.sharing.model_card import HERE, Licence, ModelWords, StageWords, write_model_card
from llava.checkpoints.config_json import patches_across, text_settings, vision_settings

WIDTH = 5120  # of the published model's language model, Llama 2 13B
BASES = ("liuhaotian/llava-llama-2-13b-chat-lightning-preview", "openai/clip-vit-large-patch14")
LLAMA = Licence("llama2", None, "https://ai.meta.com/llama/license/")
LIMITS = """\
- It was tuned to say how one action is done in one first-person frame. It is no assistant: other questions,
  other languages and several turns were not in its tuning.
- It says what is likely, also of hands and objects that the frame does not show; nothing checks its words.
- What is wrong or one-sided in the data and in the models that it derives from is in its words too."""
USAGE = f"""from PIL import Image

from llava.describe import describe
from llava.model import load

{HERE}
model, tokenizer, processor = load(HERE)
photo = Image.open("photo.jpg").convert("RGB")
(told,) = describe(model, tokenizer, processor, [photo], ["open the drawer"])
print(told.text)
print(told.image_features.shape, told.text_features.shape)  # what stage 2 is guided by
"""


def write_card(folder: Path, config: LlavaConfig, words: ModelWords | None = None) -> None:
    """Writes README.md of a folder, whole or of adapters."""
    write_model_card(folder, card_words(config, adapters=(folder / "adapter_config.json").is_file()), words)


def card_words(config: LlavaConfig, adapters: bool = False) -> StageWords:
    """What a card says of a model with these settings."""
    text, vision = text_settings(config), vision_settings(config)
    published = text.hidden_size == WIDTH
    patches = patches_across(vision) ** 2
    more = " These are adapters: they need the checkpoint that they were trained on." if adapters else ""
    return StageWords(
        title="LEGO: how an action is done",
        what="A vision-language model that looks at a first-person photo and says how an action is done "
        f"there; its image and text features guide stage 2 of LEGO. This is stage 1.{more}",
        facts={
            "Language model": f"LLaMA, {text.num_hidden_layers} layers of width {text.hidden_size}",
            "Sees": f"{vision.image_size} x {vision.image_size} pixels, {patches} patches",
            "Features for stage 2": f"image {patches} x {text.hidden_size}, text n x {text.hidden_size}, a "
            "row a token",
        },
        usage=USAGE,
        limits=LIMITS,
        licences=f"{of_bases(published)} What it was tuned on has terms of its own: Ego4D a signed "
        "agreement, EPIC-KITCHENS-100 CC BY-NC 4.0. The code that loads it is Apache-2.0.",
        licence=LLAMA if published else Licence(),
        base_model=BASES if published else (),
        task="image-text-to-text",
    )


def of_bases(published: bool) -> str:
    """What is said of the models that it derives from."""
    if published:
        return (
            "It derives from LLaVA on Llama 2, which is licensed under the LLAMA 2 Community License, "
            "Copyright (c) Meta Platforms, Inc. All Rights Reserved, and from OpenAI's CLIP (MIT)."
        )
    return "It is of another size than the published model; whose it is must say which licence it has."
