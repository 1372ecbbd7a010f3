"""Curated conversations in the LLaVA format."""

import json
from pathlib import Path
from typing import Any

import pytest

from egogen.conversations import Conversation, Turn, read_conversations, write_conversations
from egogen.errors import UserError

TURNS = [{"from": "human", "value": "<image>\nHow?"}, {"from": "gpt", "value": "So."}]


def write(folder: Path, value: object) -> Path:
    path = folder / "records.json"
    path.write_text(json.dumps(value))
    return path


def test_records_come_back(tmp_path: Path) -> None:
    raw = [
        {"id": "a", "image": "c/a/0.jpg", "conversations": TURNS, "source": {"model": "gpt-3.5"}},
        {"id": 7, "conversations": [{**TURNS[0], "weight": 1}]},  # some LLaVA files number their records
        {"image": "c/a/1.jpg", "conversations": []},
    ]
    records = read_conversations(write(tmp_path, raw))
    assert records[0].conversations[1].speaker == "gpt"
    assert records[1].image is None
    write_conversations(tmp_path / "copy.json", records)
    assert json.loads((tmp_path / "copy.json").read_text()) == raw


def test_records_made_in_code_are_written_in_the_published_keys(tmp_path: Path) -> None:
    record = Conversation(id="a", image="x.jpg", conversations=[Turn(speaker="human", value="?")])
    write_conversations(tmp_path / "x.json", [record])
    expected = {"id": "a", "image": "x.jpg", "conversations": [{"from": "human", "value": "?"}]}
    assert json.loads((tmp_path / "x.json").read_text()) == [expected]


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({}, r"records\.json: found dict, expected a list"),
        ([{"id": "a"}], "record 0: the field 'conversations' is missing"),
        ([{"conversations": TURNS}, 3], "record 1: found int 3"),
        ([{"conversations": "hello"}], "record 0, field 'conversations': found 'hello'"),
        ([{"conversations": [{"value": "x"}]}], "record 0.*'conversations.0.from' is missing"),
        (
            [{"conversations": [{"from": "gpt", "value": None}]}],
            r"field 'conversations\.0\.value': found None",
        ),
        ([{"conversations": TURNS, "image": "../x.jpg"}], r"field 'image'.*contains '\.\.'"),
        ([{"conversations": TURNS, "image": "/x.jpg"}], "field 'image'.*absolute path"),
    ],
)
def test_faults_are_named(tmp_path: Path, raw: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_conversations(write(tmp_path, raw))
