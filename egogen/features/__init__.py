"""Features of stage 1 on disk: the published `.npy` tree, and stores that take a fraction of its space."""

from typing import TYPE_CHECKING

from egogen.later import later

if TYPE_CHECKING:
    from egogen.features.npy import TEXT_TOKENS as TEXT_TOKENS
    from egogen.features.npy import NpyFiles as NpyFiles
    from egogen.features.npy import as_half as as_half
    from egogen.features.npy import as_image_feature as as_image_feature
    from egogen.features.npy import as_text_feature as as_text_feature
    from egogen.features.npy import fit_tokens as fit_tokens
    from egogen.features.npy import is_done as is_done
    from egogen.features.npy import read_image_feature as read_image_feature
    from egogen.features.npy import read_pair as read_pair
    from egogen.features.npy import read_text_feature as read_text_feature
    from egogen.features.npy import write_feature as write_feature
    from egogen.features.store_names import IMAGE_TOKENS as IMAGE_TOKENS

__getattr__ = later(
    __name__,
    **dict.fromkeys(
        (
            "IMAGE_TOKENS",
            "TEXT_TOKENS",
            "NpyFiles",
            "as_half",
            "as_image_feature",
            "as_text_feature",
            "fit_tokens",
            "is_done",
            "read_image_feature",
            "read_pair",
            "read_text_feature",
            "write_feature",
        ),
        "egogen.features.npy",
    ),
)
