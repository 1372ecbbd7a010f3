import gzip
import json
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from egogen.conversations import Conversation, read_conversations
from egogen.errors import UserError
from egogen.reserved import OF_LLAVA
from llava.checkpoints.tokenizer import load_tokenizer
from llava.tuning.conversations import IGNORED, Collate, encode, encode_all, fault, say_longer
from tests.llava.conftest import ORACLE, Loaded

RECORDS = read_conversations(ORACLE / "train_conversations.json")
RECORDED = json.loads(gzip.decompress((ORACLE / "preprocess.json.gz").read_bytes()))
NAMES = [sample["name"] for sample in RECORDED["samples"]["max2048"]]
# Their ids hold a literal </s> or <unk>, which transformers 5 splits otherwise; both are refused.
REFUSED_LITERALS = {"eos_literal_in_answer", "unk_literal"}
FAULTS = {
    "image_key_without_token": "0 times '<image>'",
    "empty_answer": "answer '': it is blank",
    "inst_in_answer": "[/INST]",
    "eos_literal_in_answer": "</s>",
    "unk_literal": "<unk>",
    "two_images_two_turns": "2 times '<image>'",
    "no_image_with_literal_token": "<image>",
}


@pytest.mark.parametrize("limit", [2048, 200])
@pytest.mark.parametrize("name", [name for name in NAMES if name not in REFUSED_LITERALS])
def test_ids_and_labels_are_those_of_the_published_code(name: str, limit: int, loaded: Loaded) -> None:
    index = NAMES.index(name)
    recorded = RECORDED["samples"][f"max{limit}"][index]
    example = encode(RECORDS[index], loaded[1], limit)
    assert example.ids == recorded["input_ids"][:limit]
    assert example.labels == recorded["labels"][:limit]


@pytest.mark.parametrize("limit", [2048, 200])
def test_batches_are_those_of_the_published_code(limit: int, loaded: Loaded) -> None:
    collate = Collate(patches=1)  # image places not expanded, as recorded
    image = torch.zeros(3, 4, 4)
    for batch in RECORDED["batches"][f"max{limit}"]:
        if any(NAMES[index] in REFUSED_LITERALS for index in batch["indices"]):
            continue
        made = collate([(encode(RECORDS[index], loaded[1], limit), image) for index in batch["indices"]])
        for key in ("input_ids", "labels", "attention_mask"):
            assert made[key].tolist() == torch.tensor(batch[key]).long().tolist()


@pytest.mark.parametrize("name", NAMES)
def test_records_that_cannot_be_learnt_from_are_told(name: str, loaded: Loaded) -> None:
    record = RECORDS[NAMES.index(name)]
    reason = fault(record, encode(record, loaded[1], 2048))
    assert (reason is None) == (name not in FAULTS)
    assert FAULTS.get(name, "") in (reason or "")


def record_of(*turns: tuple[str, str], image: str | None = "a.jpg") -> Conversation:
    messages = [{"from": speaker, "value": value} for speaker, value in turns]
    return Conversation.model_validate({"id": "r1", "image": image, "conversations": messages})


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        ([("human", "<image>\nWhat?")], "alternate"),
        ([("human", "<image>\nWhat?"), ("human", "b")], "alternate"),
        ([("human", "<image>\nWhat?"), ("system", "b")], "speaker 'system'"),
        ([], "alternate"),
        ([("gpt", "b")], "alternate"),
    ],
)
def test_turns_out_of_order_are_told(turns: list[tuple[str, str]], message: str, loaded: Loaded) -> None:
    with pytest.raises(UserError, match=rf"data.json: record 0 \(id 'r1'\).*{message}"):
        encode_all([record_of(*turns)], loaded[1], 2048, Path("data.json"))


@pytest.mark.parametrize("sign", [*OF_LLAVA[:6], "\u200b"])
@pytest.mark.parametrize("turn", [0, 1])
def test_signs_and_blanks_are_told_alike_in_questions_and_answers(
    sign: str, turn: int, loaded: Loaded
) -> None:
    texts = ["<image>\nWhat?", "A cup."]
    texts[turn] = f"<image> {sign}" if sign.strip() == "\u200b" else f"{texts[turn]} {sign} b"
    record = record_of(("human", texts[0]), ("gpt", texts[1]))
    with pytest.raises(UserError, match=r"record 0 .*(answer|question) .*(it holds|it is blank)"):
        encode_all([record], loaded[1], 2048, Path("data.json"))


def test_added_tokens_are_signs(tiny: Path) -> None:
    tokenizer = load_tokenizer(tiny)
    tokenizer.add_tokens(["<region>", "spatula"])
    for text, bad in (("A <region>.", True), ("A spatula.", False)):
        record = record_of(("human", "<image>\nWhat?"), ("gpt", text))
        with pytest.raises(UserError, match="<region>") if bad else nullcontext():
            encode_all([record], tokenizer, 2048, Path("data.json"))


def test_longer_records_are_counted(loaded: Loaded, caplog: pytest.LogCaptureFixture) -> None:
    short = record_of(("human", "<image>\nWhat?"), ("gpt", "A cup."))
    long = record_of(("human", "<image>\nWhat?"), ("gpt", "A cup. " * 60))
    examples = encode_all([short, long], loaded[1], 200, Path("data.json"))
    assert "1 of 2 records are longer than --model_max_length 200" in caplog.text
    length = examples[0].length(16)
    assert length == len(examples[0].ids) + 15
    caplog.clear()
    say_longer(examples, 16, 215)
    assert not caplog.text
    say_longer(examples, 16, 214)
    assert "1 of 2 records take more than the model's 214 places" in caplog.text
    assert "up to 215" in caplog.text


def test_a_record_cut_before_its_image_is_told_as_cut(loaded: Loaded) -> None:
    record = record_of(("human", "What? " * 20 + "<image>"), ("gpt", "A cup."))
    with pytest.raises(UserError, match=r"'<image>' is behind the first 10 tokens; raise --model_max_length"):
        encode_all([record], loaded[1], 10, Path("data.json"))


def test_bad_records_stop_or_are_skipped(loaded: Loaded, caplog: pytest.LogCaptureFixture) -> None:
    good = record_of(("human", "<image>\nWhat?"), ("gpt", "A cup."))
    bad = record_of(("human", "What?"), ("gpt", "A cup."))
    with pytest.raises(UserError, match="1 bad records of 2"):
        encode_all([good, bad], loaded[1], 2048, Path("data.json"))
    assert len(encode_all([good, bad], loaded[1], 2048, Path("data.json"), skip_bad=True)) == 1
    assert "record 1" in caplog.text
    with pytest.raises(UserError, match="no record to train on"):
        encode_all([bad], loaded[1], 2048, Path("data.json"), skip_bad=True)


def test_a_text_that_does_not_fit_its_mask_is_learnt_at_the_limit_alone(loaded: Loaded) -> None:
    # As published, whose check of lengths ends where the text is cut.
    record = RECORDS[NAMES.index("unk_literal")]
    whole = encode(record, loaded[1], 2048)
    assert whole.supervised == 0
    assert encode(record, loaded[1], len(whole.ids)).supervised > 0


def test_an_answer_beyond_the_length_is_told(loaded: Loaded) -> None:
    record = record_of(("human", "<image>\nWhat?"), ("gpt", "A cup."))
    example = encode(record, loaded[1], 2048)
    length = len(example.ids) - example.supervised
    with pytest.raises(UserError, match="--model_max_length"):
        encode_all([record], loaded[1], length, Path("data.json"))


def test_image_places_are_expanded_and_ignored(loaded: Loaded) -> None:
    example = encode(RECORDS[0], loaded[1], 2048)
    batch = Collate(patches=16)([(example, torch.zeros(3, 4, 4))])
    assert batch["input_ids"].shape[1] == len(example.ids) + 15
    places = batch["input_ids"] == -200
    assert places.sum() == 16
    assert (batch["labels"][places] == IGNORED).all()
