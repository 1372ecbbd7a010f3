"""Features of stage 1 on disk: the published `.npy` tree, and stores that take a fraction of its space."""

from egogen.features.npy import (
    IMAGE_TOKENS,
    REMEDY,
    TEXT_TOKENS,
    NpyFiles,
    as_half,
    as_image_feature,
    as_text_feature,
    check_image_feature,
    check_text_feature,
    fit_tokens,
    is_done,
    load,
    mapped,
    read_image_feature,
    read_text_feature,
    write_feature,
)

__all__ = [
    "IMAGE_TOKENS",
    "REMEDY",
    "TEXT_TOKENS",
    "NpyFiles",
    "as_half",
    "as_image_feature",
    "as_text_feature",
    "check_image_feature",
    "check_text_feature",
    "fit_tokens",
    "is_done",
    "load",
    "mapped",
    "read_image_feature",
    "read_text_feature",
    "write_feature",
]
