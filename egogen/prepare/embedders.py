"""Image models that turn frames into vectors: open_clip weights or a transformers CLIP folder, if asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
from jaxtyping import Float32
from PIL import Image

from egogen.errors import UserError, reason
from egogen.files import regular
from egogen.pickled_texts import check_texts
from egogen.torchscript import SETTINGS, is_torchscript, read_torchscript

# The embeddings [n, d] of RGB pictures of any size, not normalised.
Embedder: TypeAlias = Callable[[Sequence[Image.Image]], np.ndarray]


def load_embedder(path: Path, architecture: str) -> Embedder:
    """Loads the image model of a weights file (open_clip) or of a folder (transformers).

    Raises:
        UserError: its library is not installed, or it holds something else.
    """
    try:
        return transformers_clip(path) if path.is_dir() else open_clip_file(path, architecture)
    except ImportError as error:
        raise UserError(
            f"--embedder {path}: needs {error.name}, which this environment lacks; use the ldm environment"
        ) from None
    except Exception as error:  # noqa: BLE001 - the libraries raise many kinds for files that are not theirs
        raise UserError(f"--embedder {path}: cannot be loaded as an image model ({reason(error)})") from None


def open_clip_file(path: Path, architecture: str) -> Embedder:
    """The image half of a CLIP in an open_clip (or OpenAI) weights file."""
    import open_clip
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    scripted = is_torchscript(path)  # OpenAI's own, whose networks have another activation
    model, _, transform = open_clip.create_model_and_transforms(
        architecture,
        pretrained=None if scripted else str(path.resolve()),
        force_quick_gelu=scripted,
        device=device,
        weights_only=True,
    )
    if scripted:
        state = read_torchscript(path)
        model.load_state_dict({name: state[name] for name in state if name not in SETTINGS})
    model.eval()

    def embed(images: Sequence[Image.Image]) -> Float32[np.ndarray, "n d"]:
        with torch.inference_mode():
            pixels = torch.stack([transform(image) for image in images])
            found: np.ndarray = model.encode_image(pixels.to(device)).float().cpu().numpy()
        return found

    return embed


def transformers_clip(path: Path) -> Embedder:
    """The image half of a CLIP in a Hugging Face folder with `preprocessor_config.json`."""
    import torch
    from transformers import CLIPImageProcessor, CLIPModel

    device = "cuda" if torch.cuda.is_available() else "cpu"
    loaded = CLIPModel.from_pretrained(
        path,
        attn_implementation="sdpa",  # not what the folder names, which may be a kernel to fetch and run
        weights_only=True,
        local_files_only=True,
    )
    model = loaded.eval().to(device)  # type: ignore[arg-type]  # torch's wrapper hides what it takes
    processor = CLIPImageProcessor.from_pretrained(path, local_files_only=True)

    def embed(images: Sequence[Image.Image]) -> Float32[np.ndarray, "n d"]:
        pixels = processor(images=list(images), return_tensors="pt")["pixel_values"]
        with torch.inference_mode():
            pooled = model.vision_model(pixel_values=pixels.to(device)).pooler_output
            found: np.ndarray = model.visual_projection(pooled).float().cpu().numpy()
        return found

    return embed


def load_head(path: Path) -> Float32[np.ndarray, " d1"]:
    """Reads a linear layer that scores normalised embeddings: its weights, then its bias.

    Raises:
        UserError: the file holds something else.
    """
    import torch

    try:
        check_texts(regular(path))
        state = torch.load(path, map_location="cpu", weights_only=True)
        weight, bias = state["weight"].reshape(-1), state["bias"].reshape(-1)
        found: np.ndarray = torch.cat([weight, bias]).float().numpy()
    except Exception as error:  # noqa: BLE001 - torch raises many kinds for a file that is not its own
        raise UserError(
            f"--aesthetic-head {path}: expected tensors 'weight' [1, d] and 'bias' [1] ({reason(error)})"
        ) from None
    return found
