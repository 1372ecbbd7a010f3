"""Image models that turn frames into vectors: open_clip weights or a transformers CLIP folder, if asked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32
from PIL import Image

from egogen.errors import UserError, reason
from egogen.torchscript import SETTINGS, is_torchscript, read_torchscript


@runtime_checkable
class Embedder(Protocol):
    """Any image model."""

    def __call__(self, images: Sequence[Image.Image]) -> Float32[np.ndarray, "n d"]:
        """The embeddings of RGB pictures of any size, not normalised."""
        ...


def load_embedder(path: Path, architecture: str) -> Embedder:
    """Loads the image model of a weights file (open_clip) or of a folder (transformers).

    Raises:
        UserError: its library is not installed, or it holds something else.
    """
    try:
        return TransformersClip(path) if path.is_dir() else OpenClip(path, architecture)
    except ImportError as error:
        raise UserError(
            f"--embedder {path}: needs {error.name}, which this environment lacks; use the ldm environment"
        ) from None
    except Exception as error:  # noqa: BLE001 - the libraries raise many kinds for files that are not theirs
        raise UserError(f"--embedder {path}: cannot be loaded as an image model ({reason(error)})") from None


class OpenClip:
    """The image half of a CLIP in an open_clip (or OpenAI) weights file.

    Args:
        path: the weights.
        architecture: as open_clip names it.
    """

    def __init__(self, path: Path, architecture: str) -> None:
        import open_clip
        import torch

        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        scripted = is_torchscript(path)  # OpenAI's own, whose networks have another activation
        self.model, _, self.transform = open_clip.create_model_and_transforms(
            architecture,
            pretrained=None if scripted else str(path.resolve()),
            force_quick_gelu=scripted,
            device=self.device,
            weights_only=True,
        )
        if scripted:
            state = read_torchscript(path)
            self.model.load_state_dict({name: state[name] for name in state if name not in SETTINGS})
        self.model.eval()

    def __call__(self, images: Sequence[Image.Image]) -> Float32[np.ndarray, "n d"]:
        """Embeds."""
        import torch

        with torch.inference_mode():
            pixels = torch.stack([self.transform(image) for image in images])
            found: np.ndarray = self.model.encode_image(pixels.to(self.device)).float().cpu().numpy()
        return found


class TransformersClip:
    """The image half of a CLIP in a Hugging Face folder.

    Args:
        path: holds `config.json`, the weights and `preprocessor_config.json`.
    """

    def __init__(self, path: Path) -> None:
        import torch
        from transformers import CLIPImageProcessor, CLIPModel

        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        model: Any = CLIPModel.from_pretrained(
            path,
            attn_implementation="sdpa",  # not what the folder names, which may be a kernel to fetch and run
            weights_only=True,
            local_files_only=True,
        )
        self.model = model.to(self.device).eval()
        self.processor = CLIPImageProcessor.from_pretrained(path, local_files_only=True)

    def __call__(self, images: Sequence[Image.Image]) -> Float32[np.ndarray, "n d"]:
        """Embeds."""
        import torch

        pixels = self.processor(images=list(images), return_tensors="pt")["pixel_values"]
        with torch.inference_mode():
            pooled = self.model.vision_model(pixel_values=pixels.to(self.device)).pooler_output
            found: np.ndarray = self.model.visual_projection(pooled).float().cpu().numpy()
        return found


def load_head(path: Path) -> Float32[np.ndarray, " d1"]:
    """Reads a linear layer that scores normalised embeddings: its weights, then its bias.

    Raises:
        UserError: the file holds something else.
    """
    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        weight, bias = state["weight"].reshape(-1), state["bias"].reshape(-1)
        found: np.ndarray = torch.cat([weight, bias]).float().numpy()
    except Exception as error:  # noqa: BLE001 - torch raises many kinds for a file that is not its own
        raise UserError(
            f"--aesthetic-head {path}: expected tensors 'weight' [1, d] and 'bias' [1] ({reason(error)})"
        ) from None
    return found
