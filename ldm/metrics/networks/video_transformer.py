"""EgoVLP's video tower: a ViT that attends over time, then over space (Bain et al. 2021, Lin et al. 2022).

Modules are named as in the published files, so that a state dict fits key by key.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

EPS = 1e-6
MLP_RATIO = 4


class VideoTransformer(nn.Module):
    """Frames of p patches, of so many pixels along a side, to one feature: the class token's final state."""

    def __init__(self, width: int, depth: int, heads: int, patch: int, patches: int, frames: int) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + patches, width))
        self.temporal_embed = nn.Parameter(torch.zeros(1, frames, width))
        self.patch = patch
        self.patch_embed = nn.Sequential(OrderedDict(proj=nn.Conv2d(3, width, patch, patch)))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=EPS)

    def forward(self, video: Float[Tensor, "b f 3 h w"]) -> Float[Tensor, "b d"]:
        """Encodes clips; their frames are as large as the position embeddings say."""
        frames = video.shape[1]
        tokens = self.patch_embed(rearrange(video, "b f c h w -> (b f) c h w"))
        tokens = rearrange(tokens, "(b f) d y x -> b f (y x) d", f=frames)
        tokens = tokens + self.pos_embed[:, None, 1:] + self.temporal_embed[:, :frames, None]
        first = (self.cls_token + self.pos_embed[:, :1]).expand(len(video), -1, -1)  # [b, 1, d]
        tokens = torch.cat([first, rearrange(tokens, "b f p d -> b (f p) d")], dim=1)
        for block in self.blocks[:-1]:
            tokens = block(tokens, frames)
        return self.norm(self.blocks[-1](tokens, frames, first_only=True)[:, 0])


class Block(nn.Module):
    """Attention over time, attention over space, MLP.

    The state after the spatial attention starts from the block's input, not from the state after the temporal
    one, as in the published code.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width, eps=EPS) for _ in range(3))
        self.attn, self.timeattn = DividedAttention(width, heads), DividedAttention(width, heads)
        first, second = nn.Linear(width, MLP_RATIO * width), nn.Linear(MLP_RATIO * width, width)
        self.mlp = nn.Sequential(OrderedDict(fc1=first, gelu=nn.GELU(), fc2=second))

    def forward(
        self, x: Float[Tensor, "b t d"], frames: int, first_only: bool = False
    ) -> Float[Tensor, "b t2 d"]:
        """One block over the tokens of all frames; the class token's state alone takes half the work."""
        over_time = self.norm1(x + self.timeattn(self.norm3(x), frames, over_time=True))
        if first_only:
            over_space = x[:, :1] + self.attn.first(over_time)
        else:
            over_space = x + self.attn(over_time, frames, over_time=False)
        return over_space + self.mlp(self.norm2(over_space))


class DividedAttention(nn.Module):
    """The class token attends to everything; a patch to its group and the class token.

    A group is one place in all frames (over time) or one frame (over space).
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def split(self, x: Float[Tensor, "b t d"]) -> Float[Tensor, "3 b heads t c"]:
        """Queries, keys and values."""
        return rearrange(self.qkv(x), "b t (part heads c) -> part b heads t c", part=3, heads=self.heads)

    def first(self, x: Float[Tensor, "b t d"]) -> Float[Tensor, "b 1 d"]:
        """The class token's state alone."""
        q, k, v = self.split(x)
        state = functional.scaled_dot_product_attention(q[:, :, :1], k, v)  # [b, heads, 1, c]
        return self.proj(rearrange(state, "b heads t c -> b t (heads c)"))

    def forward(self, x: Float[Tensor, "b t d"], frames: int, *, over_time: bool) -> Float[Tensor, "b t d"]:
        """Attends within groups."""
        q, k, v = self.split(x)  # [b, heads, t, c] each
        first = functional.scaled_dot_product_attention(q[:, :, :1], k, v)  # [b, heads, 1, c]
        group_q = grouped(q[:, :, 1:], frames, over_time)  # [b, heads, g, s, c]
        group_k, group_v = (
            torch.cat(
                [part[:, :, None, :1].expand(-1, -1, group_q.shape[2], -1, -1),
                 grouped(part[:, :, 1:], frames, over_time)],
                dim=3,
            )
            for part in (k, v)
        )  # fmt: skip
        others = functional.scaled_dot_product_attention(group_q, group_k, group_v)  # [b, heads, g, s, c]
        order = "b heads p f c" if over_time else "b heads f p c"
        others = rearrange(others, f"{order} -> b heads (f p) c")
        out = torch.cat([first, others], dim=2)
        return self.proj(rearrange(out, "b heads t c -> b t (heads c)"))


def grouped(x: Float[Tensor, "b heads n c"], frames: int, over_time: bool) -> Float[Tensor, "b heads g s c"]:
    """Splits the tokens of all frames into groups: by place over time, by frame over space."""
    order = "b heads p f c" if over_time else "b heads f p c"
    return rearrange(x, f"b heads (f p) c -> {order}", f=frames)
