"""Metrics, protocols and precisions by name; no torch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, TypeVar, get_args

from egogen.errors import UserError

Protocol = Literal["published", "corrected"]
PROTOCOLS: tuple[Protocol, ...] = get_args(Protocol)
# Of networks. `tf32`: products on a GPU's tensor cores; `tiles`: products of 16-bit numbers on a CPU's tiles,
# all else in 32 bits; `bf16`: numbers between the layers too.
Precision = Literal["32", "tf32", "tiles", "bf16"]
AUTO = "auto"  # what is faster on the device and moves no similarity by 0.001
PRECISIONS: tuple[str, ...] = (*get_args(Precision), AUTO)
# As `--metrics` takes them, and in `metric.json`, as published.
KEYS = {
    "egovlp": "egovlp_image_sim",
    "egovlp_plus": "egovlp_plus_image_sim",
    "clip": "clip_image_sim",
    "fid": "fid",
    "psnr": "psnr",
    "lpips_squeeze": "lpips_squeeze",
    "lpips_vgg": "lpips_vgg",
    "lpips_alex": "lpips_alex",
    "lpips_corrected": "lpips_corrected",
    "blip_base": "blip_base_egovlp_sim",
    "blip_large": "blip_large_egovlp_sim",
    "ssim": "ssim",
    "psnr_box": "psnr_box",
    "ssim_box": "ssim_box",
    "toy_success": "toy_success",
    "toy_hand": "toy_hand",
    "toy_object": "toy_object",
    "toy_place": "toy_place",
    "toy_similarity": "toy_similarity",
    "toy_fid": "toy_fid",
}
Choice = TypeVar("Choice", bound=str)


def choice(what: str, name: str, allowed: Iterable[Choice]) -> Choice:
    """Returns one of the allowed names unchanged.

    Raises:
        UserError: it is none of them.
    """
    known = {f"{each}": each for each in allowed}
    if name not in known:
        raise UserError(f"{what} {name!r}: allowed are {', '.join(known)}")
    return known[name]


def metric_names(asked: Iterable[str]) -> list[str]:
    """Our names of the metrics that are asked for by these or by the published ones, each once.

    Raises:
        UserError: a name is unknown.
    """
    ours = {key: name for name, key in KEYS.items()}
    return list(dict.fromkeys(ours.get(name) or choice("metric", name, KEYS) for name in asked))
