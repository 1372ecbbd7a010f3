"""The paper's contribution: stage-1 features, projected into the diffusion model's own conditioning space."""

from __future__ import annotations

from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from jaxtyping import Float
from torch import Tensor, cat, nn

MIXER_LAYERS = 2
MIXER_HEADS = 8
MIXER_WIDTH = 2048  # inner width of the feed-forward layers, PyTorch's default (published)


class Conditioner(ModelMixin, ConfigMixin):
    """sigma, mu and pi of the paper's figure 3: `[sigma(H_i), pi(mu(H_t))]`, the VLLM part of the context.

    Args:
        llm_width: d of the stage-1 features (5120 for the 13B model).
        context_width: D of the UNet's cross-attention (768 for Stable Diffusion 1.5); a multiple of 8.
        mixer_width: inner width of pi's feed-forward layers.
    """

    config_name = "config.json"

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self, llm_width: int = 5120, context_width: int = 768, mixer_width: int = MIXER_WIDTH
    ) -> None:
        super().__init__()
        self.projection_img = nn.Linear(llm_width, context_width)  # sigma
        self.projection_txt = nn.Linear(llm_width, context_width)  # mu
        layer = nn.TransformerEncoderLayer(
            context_width, MIXER_HEADS, mixer_width, norm_first=True, batch_first=True
        )
        # Nested tensors need a padding mask, and the method has none.
        self.self_attn_mix = nn.TransformerEncoder(layer, MIXER_LAYERS, enable_nested_tensor=False)  # pi

    def forward(
        self, image: Float[Tensor, "b i llm"], text: Float[Tensor, "b t llm"]
    ) -> Float[Tensor, "b i+t ctx"]:
        """Projects 256 image and 77 text features to 333 context tokens.

        Padding rows of the text pass through projection and mixer like any other: there is no mask (paper).
        """
        image_tokens = self.projection_img(image)  # b i ctx
        text_tokens = self.self_attn_mix(self.projection_txt(text))  # b t ctx
        return cat([image_tokens, text_tokens], dim=1)

    def set_dropout(self, probability: float) -> None:
        """Sets the dropout of the mixer's layers, in effect while training."""
        for module in self.self_attn_mix.modules():
            if isinstance(module, nn.Dropout):
                module.p = probability
            elif isinstance(module, nn.MultiheadAttention):
                module.dropout = probability
