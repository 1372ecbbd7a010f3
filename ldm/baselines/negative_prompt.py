"""Negative-prompt inversion (Miyake et al. 2023): guidance away from the source prompt, not from ""."""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cosine_similarity


def slerp(start: Float[Tensor, "b t d"], end: Float[Tensor, "b t d"], share: float) -> Float[Tensor, "b t d"]:
    """Goes a share of the way on the great circle between embeddings, each taken as one long vector.

    Norms are not corrected (released). Embeddings of one direction, such as those of equal texts, have no
    circle between them and are interpolated linearly.
    """
    first, last = (rearrange(each, "b t d -> b (t d)") for each in (start, end))
    angle = cosine_similarity(first, last).clamp(-1, 1).acos()[:, None]  # b 1
    sine = angle.sin()
    curved = (torch.sin((1 - share) * angle) * first + torch.sin(share * angle) * last) / sine
    mixed = torch.where(sine < 1e-6, torch.lerp(first, last, share), curved)
    return rearrange(mixed, "b (t d) -> b t d", t=start.shape[1])
