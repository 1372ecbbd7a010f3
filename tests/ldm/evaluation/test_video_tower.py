"""EgoVLP's towers at toy size: attention token by token, loading, texts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import gelu, layer_norm
from transformers import DistilBertConfig, DistilBertModel

from egogen.errors import UserError
from ldm.metrics.networks import egovlp_model
from ldm.metrics.networks.egovlp_model import EgoVLP, count_layers, heads, load_egovlp, load_tokenizer
from ldm.metrics.networks.video_transformer import DividedAttention, VideoTransformer
from tests.ldm.evaluation.networks import write_vocabulary

CPU = torch.device("cpu")
WORDS = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4, "cup": 5, "red": 6}
AGAIN = "bash scripts/download_metric_weights.sh"


def drawn(network: torch.nn.Module, seed: int = 0) -> None:
    """Draws every weight, those that begin as nothing too."""
    generator = torch.Generator().manual_seed(seed)
    for value in network.state_dict().values():
        value.copy_(torch.randn(value.shape, generator=generator) / 2)


def text_model(words: int = 7) -> DistilBertModel:
    return DistilBertModel(
        DistilBertConfig(
            vocab_size=words, max_position_embeddings=5, dim=8, n_layers=2, n_heads=4, hidden_dim=12
        )
    )


@pytest.fixture
def network() -> EgoVLP:
    """Two frames of 2 x 2 patches, 12 numbers a token, four heads."""
    made = EgoVLP(VideoTransformer(12, 3, 4, 2, 4, 2), text_model(), 6).eval().requires_grad_(False)
    drawn(made)
    return made


def attended(layer: DividedAttention, x: Tensor, frames: int, over_time: bool) -> Tensor:
    """Token by token and head by head: the first sees all; another itself, its group and the first."""
    tokens, width = x.shape
    places, size = (tokens - 1) // frames, width // layer.heads
    queries, keys, values = (x @ layer.qkv.weight.T + layer.qkv.bias).split(width, 1)
    out = torch.zeros(tokens, width)
    for token in range(tokens):
        place, frame = (token - 1) % places, (token - 1) // places
        if token == 0:
            seen = list(range(tokens))
        elif over_time:
            seen = [0, *(1 + each * places + place for each in range(frames))]
        else:
            seen = [0, *(1 + frame * places + each for each in range(places))]
        for head in range(layer.heads):
            part = slice(head * size, (head + 1) * size)
            shares = (keys[seen, part] @ queries[token, part] / size**0.5).softmax(0)
            out[token, part] = shares @ values[seen, part]
    return out @ layer.proj.weight.T + layer.proj.bias


def encoded(tower: VideoTransformer, clip: Tensor) -> Tensor:
    """One clip [f, 3, h, w], as the published code reads."""
    frames, _, height, width = clip.shape
    kernel = tower.patch_embed.proj.weight.flatten(1)
    tokens = [tower.cls_token[0, 0] + tower.pos_embed[0, 0]]
    for frame in range(frames):
        place = 0
        for y in range(0, height, tower.patch):
            for x in range(0, width, tower.patch):
                patch = clip[frame, :, y : y + tower.patch, x : x + tower.patch].flatten()
                place += 1
                tokens.append(
                    kernel @ patch + tower.patch_embed.proj.bias
                    + tower.pos_embed[0, place] + tower.temporal_embed[0, frame]
                )  # fmt: skip
    x = torch.stack(tokens)

    def normed(norm: torch.nn.LayerNorm, values: Tensor) -> Tensor:
        return layer_norm(values, values.shape[-1:], norm.weight, norm.bias, 1e-6)

    for block in tower.blocks:
        time = x + attended(block.timeattn, normed(block.norm3, x), frames, over_time=True)
        space = x + attended(block.attn, normed(block.norm1, time), frames, over_time=False)
        hidden = gelu(normed(block.norm2, space) @ block.mlp.fc1.weight.T + block.mlp.fc1.bias)
        x = space + hidden @ block.mlp.fc2.weight.T + block.mlp.fc2.bias
    return normed(tower.norm, x)[0]


@pytest.mark.parametrize("frames", [1, 2])
def test_clips_are_encoded_as_by_hand(network: EgoVLP, frames: int) -> None:
    clips = torch.rand(3, frames, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    states = torch.stack([encoded(network.video_model, clip) for clip in clips])
    torch.testing.assert_close(network.video_model(clips), states, atol=1e-5, rtol=1e-4)
    layer = network.vid_proj[0]
    projected = states @ layer.weight.T + layer.bias
    torch.testing.assert_close(network.video(clips), projected, atol=1e-5, rtol=1e-4)


def test_what_was_not_drawn_begins_as_nothing_and_features_need_no_gradient() -> None:
    tower = VideoTransformer(8, 1, 2, 2, 4, 3)
    for value, shape in (
        (tower.cls_token, (1, 1, 8)), (tower.pos_embed, (1, 5, 8)), (tower.temporal_embed, (1, 3, 8)),
    ):  # fmt: skip
        assert value.shape == shape
        assert not value.any()
    made = EgoVLP(tower, text_model(), 6)
    assert not made.video(torch.zeros(1, 2, 3, 4, 4)).requires_grad
    assert not made.text_ids(torch.tensor([[2, 3]]), torch.ones(1, 2).long()).requires_grad
    assert made.side == 4
    assert EgoVLP(VideoTransformer(8, 1, 2, 16, 9, 3), text_model(), 6).side == 48


@pytest.mark.parametrize(("at_once", "sizes"), [(21, [2, 2, 1]), (19, [1] * 5), (1, [1] * 5), (99, [5])])
def test_so_many_tokens_go_through_at_once(
    network: EgoVLP, at_once: int, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clip of two frames has 2 x 5."""
    clips = torch.rand(5, 2, 3, 4, 4, generator=torch.Generator().manual_seed(2))
    expected = network.video_model(clips) @ network.vid_proj[0].weight.T + network.vid_proj[0].bias
    seen: list[int] = []
    network.video_model.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    monkeypatch.setattr(egovlp_model, "TOKENS_AT_ONCE", {"cpu": at_once})
    torch.testing.assert_close(network.video(clips), expected, atol=1e-5, rtol=1e-4)
    assert seen == sizes


def test_texts_are_cut_and_their_first_state_is_projected(network: EgoVLP, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(write_vocabulary(tmp_path / "vocab.txt", 7, WORDS), 7)
    texts = ["Red", "a cup", "red cup cup cup red red"]  # an unknown word; five tokens at most
    rows = [[2, 6, 3, 0, 0], [2, 1, 5, 3, 0], [2, 6, 5, 5, 3]]
    states = torch.cat(
        [network.text_model(torch.tensor([[token for token in row if token]])).last_hidden_state[:, 0]
         for row in rows]
    )  # fmt: skip
    layer = network.txt_proj[1]
    expected = states.relu() @ layer.weight.T + layer.bias
    torch.testing.assert_close(network.text(tokenizer, texts), expected, atol=1e-5, rtol=1e-4)
    mask = torch.tensor([[int(token > 0) for token in row] for row in rows])
    torch.testing.assert_close(network.text_ids(torch.tensor(rows), mask), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_sizes_are_read_off_the_file(network: EgoVLP, tmp_path: Path, prefix: str) -> None:
    state = {f"{prefix}{name}": value for name, value in network.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "x.pth")
    for frames in (1, 2, 3):
        made = load_egovlp(tmp_path / "x.pth", frames, CPU)
        assert not made.training
        temporal = made.video_model.temporal_embed
        kept = min(frames, 2)
        assert temporal.shape == (1, frames, 12)
        assert torch.equal(temporal[:, :kept], network.video_model.temporal_embed[:, :kept])
        assert not temporal[:, kept:].any()
    clips = torch.rand(1, 2, 3, 4, 4)
    assert torch.equal(load_egovlp(tmp_path / "x.pth", 2, CPU).video(clips), network.video(clips))
    config = made.text_model.config
    assert (config.vocab_size, config.max_position_embeddings, config.dim) == (7, 5, 8)
    assert (config.n_layers, config.n_heads, config.hidden_dim) == (2, 4, 12)
    ids = torch.tensor([[2, 5, 3]])
    expected = network.text_ids(ids, torch.ones_like(ids))
    assert torch.equal(made.text_ids(ids, torch.ones_like(ids)), expected)


def test_files_of_other_networks_are_told(network: EgoVLP, tmp_path: Path) -> None:
    state, path = network.state_dict(), tmp_path / "x.pth"
    for name in (
        "video_model.cls_token", "video_model.pos_embed", "video_model.patch_embed.proj.weight",
        "video_model.temporal_embed", "text_model.embeddings.word_embeddings.weight",
        "text_model.embeddings.position_embeddings.weight",
        "text_model.transformer.layer.0.ffn.lin1.weight", "vid_proj.0.weight",
    ):  # fmt: skip
        torch.save({other: value for other, value in state.items() if other != name}, path)
        with pytest.raises(UserError) as told:
            load_egovlp(path, 2, CPU)
        assert str(told.value) == (
            f"{path}: not the weights of EgoVLP: there is no '{name}'; fetch it again by {AGAIN}"
        )
    torch.save({**state, "more": torch.ones(1)}, path)
    with pytest.raises(UserError) as told:
        load_egovlp(path, 2, CPU)
    assert str(told.value) == (
        f"{path}: not the weights of EgoVLP: of {len(state)} tensors 1 unknown (such as 'more'); fetch it "
        f"again by {AGAIN}"
    )


def test_heads_are_64_wide_and_at_least_four() -> None:
    assert [heads(width) for width in (8, 256, 319, 320, 768, 1024)] == [4, 4, 4, 5, 12, 16]


def test_layers_are_counted_by_their_numbers() -> None:
    names = ["a.b.0.x", "a.b.0.y.z", "a.b.11.x", "c.a.b.2", "a.d.3"]
    assert count_layers(dict.fromkeys(names, torch.ones(1)), "a.b.") == 2
    assert count_layers({}, "a.b.") == 0


@pytest.mark.parametrize(
    ("words", "size", "fault"),
    [
        ({word: at for word, at in WORDS.items() if word != "[SEP]"}, 7, "without [SEP]"),
        (WORDS, 8, "of 8 words"),
        ({word: at for word, at in WORDS.items() if word != "[SEP]"}, 8, "without [SEP]"),
    ],
)
def test_other_vocabularies_are_told(words: dict[str, int], size: int, fault: str, tmp_path: Path) -> None:
    path = write_vocabulary(tmp_path / "vocab.txt", size, words)
    with pytest.raises(UserError) as told:
        load_tokenizer(path, 7)
    assert str(told.value) == (
        f"{path}: a vocabulary {fault}, expected that of distilbert-base-uncased with at most 7 words; fetch "
        f"it by {AGAIN}"
    )


def test_a_vocabulary_is_read_as_utf_8(tmp_path: Path) -> None:
    path, words = tmp_path / "vocab.txt", "\n".join([*WORDS, "日"]).encode()
    path.write_bytes(words)
    assert load_tokenizer(path, 8)("Red 日")["input_ids"] == [2, 6, 7, 3]
    path.write_bytes(words[:-1])  # cut off
    with pytest.raises(UserError) as told:
        load_tokenizer(path, 8)
    assert str(told.value) == (
        f"{path}: not UTF-8 text, expected the vocabulary of distilbert-base-uncased; fetch it by {AGAIN}"
    )
