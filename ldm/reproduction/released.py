"""What the authors released for each data set, by name. docs/reproduce.md says how each fact is known."""

from __future__ import annotations

from dataclasses import dataclass

VLLM = "llava-llama-2-13b-chat-forecasting-finetune"  # folder of the tuned LLaVA, in either repository
DIFFUSION = "*_diffusion_with_vllm_feature.ckpt"  # the tuned diffusion model, beside that folder
CLIP = "openai/clip-vit-large-patch14"  # the eye of LLaVA, below WEIGHTS_ROOT
PAPER = ("egovlp", "egovlp_plus", "clip", "fid", "psnr", "lpips_squeeze", "blip_base", "blip_large")
# Metric -> its weights' name for `--what` (egogen.download); the others need none.
METRIC_WEIGHTS = {
    **dict.fromkeys(("egovlp", "egovlp_plus", "blip_base", "blip_large"), "lego-metrics"),
    **dict.fromkeys(("lpips_squeeze", "lpips_corrected"), "squeezenet1_1"),
    "clip": "clip-score",
    "fid": "inception",
    "lpips_vgg": "vgg16",
    "lpips_alex": "alexnet",
}


@dataclass(frozen=True)
class Released:
    """What there is of a data set.

    Args:
        weights: its checkpoints' name in the download catalogue.
        folder: where these go below WEIGHTS_ROOT.
        config: the end of its YAML files' names, `generate_*` and `train_*`.
        train: pairs of the train split.
        val: pairs of the test set.
    """

    weights: str
    folder: str
    config: str
    train: int
    val: int


RELEASED = {
    "ego4d": Released("lego-ego4d", "LEGO-Ego4D", "ego4d", 85_521, 9_931),
    "epickitchen": Released("lego-epickitchens", "LEGO-EpicKitchens", "kitchen", 61_841, 8_893),
}
