"""A tiny LLaMA of random weights as the language model, through transformers' own loading and generation."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from egogen.conversations import read_conversations
from egogen.errors import UserError
from llava.curate import local
from llava.curate.__main__ import main
from llava.curate.exchange import ChatSampling, Message, Reply
from llava.curate.local import LocalModel, load_local
from tests.llava.curate.conftest import ACTIONS

SPECIAL = ["<pad>", "<bos>", "<eos>"]
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}[{{ message.role }}]{{ message.content }}"
    "{% if message.role == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + TEMPLATE
CHATS = [
    [Message("system", "Say."), Message("user", "Action: cut it")],
    [Message("system", "Say."), Message("user", "Action: open the very large door")],
    [Message("system", "Say."), Message("user", "x"), Message("assistant", "y"), Message("user", "Again.")],
]


def write_model(folder: Path, template: str | None = TEMPLATE, pad: bool = True) -> Path:
    """A LLaMA of two layers whose tokens are bytes."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({text: place for place, text in enumerate([*SPECIAL, *letters])}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>" if pad else None
    )
    wrapped.chat_template = template
    wrapped.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(letters) + len(SPECIAL),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0 if pad else None,
    )
    model = LlamaForCausalLM(config)
    # Peaked enough that draws at different temperatures differ, and that some answers end.
    model.lm_head.weight.data *= 8
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("local") / "tiny")


def texts(replies: list[Reply]) -> list[str]:
    return [reply.text for reply in replies]


def test_an_answer_does_not_depend_on_its_batch(folder: Path) -> None:
    model = load_local(folder, "m", ChatSampling(0.7, 6), batch=3)
    together = model.ask(CHATS)
    alone = [model.ask([chat])[0] for chat in CHATS]
    assert texts(together) == texts(alone) == texts(model.ask(CHATS[::-1])[::-1])
    assert [reply.usage for reply in together] == [reply.usage for reply in alone]
    assert len(set(texts(together))) == 3


def test_greedy_is_what_transformers_does(folder: Path) -> None:
    model = load_local(folder, "m", ChatSampling(0.0, 12), batch=1)
    (reply,) = model.ask(CHATS[:1])
    text = "<bos>[system]Say.[user]Action: cut it[assistant]"
    ids = model.tokenizer(text, add_special_tokens=False, return_tensors="pt")
    made = model.model.generate(**ids, do_sample=False, max_new_tokens=12)[0, ids["input_ids"].shape[1] :]
    assert reply.text == model.tokenizer.decode(made, skip_special_tokens=True)
    assert reply.prompt_tokens == ids["input_ids"].shape[1]
    assert reply.completion_tokens == len(made)
    assert reply.counted


def test_temperature_matters(folder: Path) -> None:
    drawn = load_local(folder, "m", ChatSampling(1.5, 6), batch=3).ask(CHATS)
    assert texts(drawn) != texts(load_local(folder, "m", ChatSampling(0.0, 6), batch=3).ask(CHATS))


def test_where_an_answer_ends(folder: Path) -> None:
    model = load_local(folder, "m", ChatSampling(0.0, 12), batch=1)
    whole = model.reply([50, 51, 2, 0, 0], 7)
    assert (whole.cut, whole.completion_tokens) == (False, 3)
    cut = model.reply([50, 51, 52], 7)
    assert (cut.cut, cut.completion_tokens) == (True, 3)
    assert whole.text == cut.text[:2]


def test_a_template_without_a_system_role(folder: Path) -> None:
    plain = load_local(folder, "m", ChatSampling(0.0, 4), batch=1)
    assert plain.render(CHATS[0]) == "<bos>[system]Say.[user]Action: cut it[assistant]"
    plain.tokenizer.chat_template = NO_SYSTEM
    assert plain.render(CHATS[0]) == "<bos>[user]Say.\n\nAction: cut it[assistant]"
    plain.tokenizer.chat_template = "{{ raise_exception('never') }}"
    with pytest.raises(UserError, match=r"its chat template takes no such chat .*never"):
        plain.render(CHATS[0])


def test_a_model_without_a_padding_token(tmp_path: Path) -> None:
    model = load_local(write_model(tmp_path / "m", pad=False), "m", ChatSampling(0.0, 4), batch=3)
    assert texts(model.ask(CHATS)) == [model.ask([chat])[0].text for chat in CHATS]


def test_another_template_or_weights_are_another_model(tmp_path: Path, folder: Path) -> None:
    first = local.local_name(folder)
    assert local.local_name(write_model(tmp_path / "a")) == first
    assert local.local_name(write_model(tmp_path / "b", template=NO_SYSTEM)) != first


def test_what_is_no_model_is_named(tmp_path: Path) -> None:
    sampling = ChatSampling(0.0, 4)
    with pytest.raises(UserError, match=r"--local .*none: no such folder"):
        local.local_name(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no checkpoint here"):
        local.local_name(tmp_path / "empty")
    broken = write_model(tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"x")
    with pytest.raises(UserError, match="not a causal language model of transformers"):
        load_local(broken, "m", sampling, 1)
    with pytest.raises(UserError, match="no chat template; take a model that was tuned on chats"):
        load_local(write_model(tmp_path / "base", template=None), "m", sampling, 1)


def test_too_large_a_batch_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_local(folder, "m", ChatSampling(0.0, 4), batch=64)

    def full(**_: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(model.model, "generate", full)
    with pytest.raises(UserError, match="--batch-size 64: out of GPU memory"):
        model.ask(CHATS)


def test_the_whole_command(
    world: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    real = LocalModel.ask

    def described(self: LocalModel, chats: list[list[Message]]) -> list[Reply]:
        asked.append(len(chats))
        real(self, chats[:1])
        said = "The right hand will {}, and the left hand rests at the left side of the table all the while."
        actions = [chat[-1].text.splitlines()[0].removeprefix("Action: ") for chat in chats]
        return [Reply(said.format(action), False, False, 9, 9, True) for action in actions]

    monkeypatch.setattr(LocalModel, "ask", described)
    flags = ["--dataset", "ego4d", "--data-root", str(world), "--local", str(folder)]
    flags += ["--out", str(tmp_path / "out.json"), "--cache", str(tmp_path / "cache"), "--batch-size", "3"]
    flags += ["--max-tokens", "2"]
    main(flags)
    assert asked == [3, 3, 2]
    assert len(read_conversations(tmp_path / "out.json")) == ACTIONS
    main(flags)
    assert asked == [3, 3, 2]
    assert json.loads((tmp_path / "out.manifest.json").read_text())["model"].startswith("local ")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda held: held.pop("lm_head.weight"), "1 weights are missing, such as lm_head.weight"),
        (lambda held: held.update(extra=torch.ones(1)), "1 weights are unexpected, such as extra"),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    change: Callable[[dict[str, torch.Tensor]], object], said: str, tmp_path: Path
) -> None:
    path = write_model(tmp_path / "m") / "model.safetensors"
    held = load_file(path)
    change(held)
    save_file(held, path, metadata={"format": "pt"})
    with pytest.raises(UserError, match=said):
        load_local(path.parent, "m", ChatSampling(0.0, 4), batch=1)
