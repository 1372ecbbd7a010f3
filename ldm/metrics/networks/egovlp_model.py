"""EgoVLP, a video and a text tower into one space (Lin et al. 2022), read from its published files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import BertTokenizer, DistilBertConfig, DistilBertModel

from egogen.errors import UserError
from ldm.metrics.networks.metric_weights import FETCH, load_strictly, read_state, require
from ldm.metrics.networks.video_transformer import VideoTransformer

WHAT = "EgoVLP"
PREFIX = "module."  # of files that DataParallel wrote
TEMPORAL = "video_model.temporal_embed"
CLASS, PLACES, PATCHES = (
    f"video_model.{name}" for name in ("cls_token", "pos_embed", "patch_embed.proj.weight")
)
WORDS, POSITIONS = (f"text_model.embeddings.{name}_embeddings.weight" for name in ("word", "position"))
FEED_FORWARD = "text_model.transformer.layer.0.ffn.lin1.weight"
PROJECTION = "vid_proj.0.weight"
# Attention heads are 64 wide in every published ViT and BERT; no file tells their number.
HEAD, FEWEST_HEADS = 64, 4
# Tokens that go through the video tower at once: a CPU's caches hold few, a GPU is not busy with few.
TOKENS_AT_ONCE = {"cpu": 1024, "cuda": 65536}


def heads(width: int) -> int:
    """Number of attention heads of a network whose file does not tell it."""
    return max(FEWEST_HEADS, width // HEAD)


class EgoVLP(nn.Module):
    """Clips and texts to features that a cosine compares. Modules are named as in the published files."""

    def __init__(self, video: VideoTransformer, text: DistilBertModel, width: int) -> None:
        super().__init__()
        self.video_model = video
        self.text_model = text
        self.txt_proj = nn.Sequential(nn.ReLU(), nn.Linear(text.config.dim, width))
        self.vid_proj = nn.Sequential(nn.Linear(video.cls_token.shape[-1], width))

    @property
    def side(self) -> int:
        """Height and width of the frames it takes, in pixels."""
        patches = self.video_model.pos_embed.shape[1] - 1
        return int(patches**0.5) * self.video_model.patch

    @torch.no_grad()
    def video(self, clips: Float[Tensor, "b f 3 s s"]) -> Float[Tensor, "b d"]:
        """Features of clips."""
        tokens = clips.shape[1] * self.video_model.pos_embed.shape[1]
        parts = clips.split(max(1, TOKENS_AT_ONCE.get(clips.device.type, 16384) // tokens))
        return torch.cat([self.vid_proj(self.video_model(part)).float() for part in parts])

    @torch.no_grad()
    def text(self, tokenizer: BertTokenizer, texts: Sequence[str]) -> Float[Tensor, "b d"]:
        """Features of texts, cut to the longest that the tower takes."""
        words = tokenizer(
            list(texts), padding=True, truncation=True, return_tensors="pt",
            max_length=self.text_model.config.max_position_embeddings,
        ).to(self.vid_proj[0].weight.device)  # fmt: skip
        return self.text_ids(words["input_ids"], words["attention_mask"])

    @torch.no_grad()
    def text_ids(self, ids: Tensor, mask: Tensor) -> Float[Tensor, "b d"]:
        """Features of token ids [b, t]; the state of the first token stands for the text."""
        states = self.text_model(input_ids=ids, attention_mask=mask).last_hidden_state  # [b, t, dim]
        return self.txt_proj(states[:, 0])


def load_egovlp(path: Path, frames: int, device: torch.device) -> EgoVLP:
    """Reads a published file; sizes follow from its tensors.

    Args:
        path: `egovlp.pth` or `epic_mir_plus.pth`.
        frames: length of the clips; a file with more positions in time is cut to the first ones, one with
            fewer is filled with zeros, as published.
        device: where to compute.

    Raises:
        UserError: it is broken, or the file of another network.
    """
    state = read_state(path)
    if next(iter(state)).startswith(PREFIX):
        state = {name.removeprefix(PREFIX): value for name, value in state.items()}
    needed = (CLASS, PLACES, PATCHES, TEMPORAL, WORDS, POSITIONS, FEED_FORWARD, PROJECTION)
    require(state, needed, path, WHAT)
    state[TEMPORAL] = fit_frames(state[TEMPORAL], frames)
    width = state[CLASS].shape[-1]
    depth = count_layers(state, "video_model.blocks.")
    patch, patches = state[PATCHES].shape[-1], state[PLACES].shape[1] - 1
    video = VideoTransformer(width, depth, heads(width), patch, patches, frames)
    model = EgoVLP(video, text_tower(state), state[PROJECTION].shape[0])
    load_strictly(model, state, path, WHAT)
    return model.eval().to(device)


def fit_frames(temporal: Float[Tensor, "1 n d"], frames: int) -> Float[Tensor, "1 f d"]:
    """Embeddings of the first positions in time, zeros where there are none."""
    fitted = temporal.new_zeros(1, frames, temporal.shape[2])
    fitted[:, : temporal.shape[1]] = temporal[:, :frames]
    return fitted


def text_tower(state: Mapping[str, Tensor]) -> DistilBertModel:
    """The text tower of a file's sizes."""
    vocabulary, width = state[WORDS].shape
    config = DistilBertConfig(
        vocab_size=vocabulary, max_position_embeddings=state[POSITIONS].shape[0], dim=width,
        n_layers=count_layers(state, "text_model.transformer.layer."), n_heads=heads(width),
        hidden_dim=state[FEED_FORWARD].shape[0],
    )  # fmt: skip
    return DistilBertModel(config)


def count_layers(state: Mapping[str, Tensor], prefix: str) -> int:
    """Number of numbered modules below a prefix."""
    return len({name[len(prefix) :].split(".")[0] for name in state if name.startswith(prefix)})


def load_tokenizer(vocabulary: Path, known: int) -> BertTokenizer:
    """The lower-case WordPiece tokenizer of a vocabulary file for a network that knows so many words.

    Raises:
        UserError: the file holds no such vocabulary, or more words than the network knows.
    """
    try:
        words = vocabulary.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise UserError(
            f"{vocabulary}: not UTF-8 text, expected the vocabulary of distilbert-base-uncased; fetch it by "
            f"{FETCH}"
        ) from None
    tokenizer = BertTokenizer(vocab=str(vocabulary))
    missing = [word for word in tokenizer.all_special_tokens if word not in words]
    if missing or len(words) > known:
        fault = f"without {missing[0]}" if missing else f"of {len(words)} words"
        raise UserError(
            f"{vocabulary}: a vocabulary {fault}, expected that of distilbert-base-uncased with at most "
            f"{known} words; fetch it by {FETCH}"
        )
    return tokenizer
