"""What the UNet attends to: the description's embedding, and the paper's projection of stage 1's features."""

from __future__ import annotations

from collections.abc import Sequence

from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from jaxtyping import Float
from torch import Tensor, cat, nn
from transformers import CLIPTextModel, CLIPTokenizer

from ldm.networks.shapes import MIXER_HEADS, MIXER_WIDTH, Streams
from ldm.networks.text import tokenize

MIXER_LAYERS = 2


def embed(
    text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer, prompts: Sequence[str]
) -> Float[Tensor, "b 77 ctx"]:
    """psi(R): last hidden state of the text encoder after its final norm, without a mask."""
    ids = tokenize(tokenizer, prompts).to(text_encoder.device)
    return text_encoder(ids).last_hidden_state


class Conditioner(ModelMixin, ConfigMixin):
    """sigma, mu and pi of the paper's figure 3: `[sigma(H_i), pi(mu(H_t))]`, the VLLM part of the context.

    A stream that is left out has no weights, and its tokens are not there (F-BL-09).

    Args:
        llm_width: d of the stage-1 features (5120 for the 13B model).
        context_width: D of the UNet's cross-attention (768 for Stable Diffusion 1.5); a multiple of 8.
        mixer_width: inner width of pi's feed-forward layers.
        image_features: whether sigma(H_i) is there.
        text_features: whether pi(mu(H_t)) is there.
    """

    config_name = "config.json"

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        llm_width: int = 5120,
        context_width: int = 768,
        mixer_width: int = MIXER_WIDTH,
        image_features: bool = True,
        text_features: bool = True,
    ) -> None:
        super().__init__()
        self.streams = Streams(image_features, text_features)
        if image_features:
            self.projection_img = nn.Linear(llm_width, context_width)  # sigma
        if not text_features:
            return
        self.projection_txt = nn.Linear(llm_width, context_width)  # mu
        layer = nn.TransformerEncoderLayer(
            context_width, MIXER_HEADS, mixer_width, norm_first=True, batch_first=True
        )
        # Nested tensors need a padding mask, and the method has none.
        self.self_attn_mix = nn.TransformerEncoder(layer, MIXER_LAYERS, enable_nested_tensor=False)  # pi

    def forward(
        self, image: Float[Tensor, "b i llm"] | None, text: Float[Tensor, "b t llm"] | None
    ) -> Float[Tensor, "b n ctx"]:
        """Projects 256 image and 77 text features to 333 context tokens; of a stream left out, to none.

        Padding rows of the text pass through projection and mixer like any other: there is no mask (paper).
        """
        assert (image is not None, text is not None) == self.streams
        tokens = []
        if image is not None:
            tokens.append(self.projection_img(image))  # b i ctx
        if text is not None:
            tokens.append(self.self_attn_mix(self.projection_txt(text)))  # b t ctx
        return cat(tokens, dim=1)

    def set_dropout(self, probability: float) -> None:
        """Sets the dropout of the mixer's layers, in effect while training."""
        for module in self.modules():
            if isinstance(module, nn.Dropout):
                module.p = probability
            elif isinstance(module, nn.MultiheadAttention):
                module.dropout = probability
