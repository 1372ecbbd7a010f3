"""The whole command against a server on this machine."""

from __future__ import annotations

import base64
import io
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from egogen.annotations import Annotations
from egogen.conversations import read_conversations
from egogen.errors import UserError
from egogen.files import read_json, write_json
from egogen.layout import Layout
from egogen.toy.world import write_world
from llava.curate.__main__ import main
from llava.curate.prompt import OURS
from tests.llava.curate.conftest import ACTIONS, Run, command, report_of
from tests.llava.curate.server import (
    KEY,
    Answer,
    action,
    completion,
    describe,
    facts,
    in_turn,
    serve,
)

ROOT = Path(__file__).parents[3]
REFUSAL = completion("I'm sorry, I can't help with that.")


def items_of(world: Path, dataset: str = "ego4d") -> Annotations:
    return Annotations.read(Layout(world, dataset).annotations("train"))


@pytest.mark.parametrize("dataset", ["ego4d", "epickitchen"])
def test_a_split_becomes_conversations(world: Path, run: Run, tmp_path: Path, dataset: str) -> None:
    with serve() as server:
        assert run(server, dataset=dataset) == 0
    records = read_conversations(tmp_path / "out.json")
    items = items_of(world, dataset).items
    assert [record.image for record in records] == [item.action.image_0 for item in items]
    assert [record.id for record in records] == [f"{item.clip}_{item.id}" for item in items]
    for record in records:
        asked, told = record.conversations
        assert (asked.speaker, told.speaker) == ("human", "gpt")
        assert told.value.startswith("The right hand reaches")
    assert len(server.requests) == ACTIONS


def test_the_question_is_the_one_of_the_toys_own_conversations(run: Run, tmp_path: Path) -> None:
    write_world(tmp_path / "toy", train=ACTIONS, val=0, size=48, seed=3, workers=1)
    expected = read_conversations(Layout(tmp_path / "toy", "ego4d").conversations)
    with serve() as server:
        run(server)
    made = read_conversations(tmp_path / "out.json")
    assert [record.conversations[0] for record in made] == [record.conversations[0] for record in expected]
    assert [(record.id, record.image) for record in made] == [
        (record.id, record.image) for record in expected
    ]


def test_the_facts_are_told_with_boxes_in_shares(world: Path, run: Run) -> None:
    with serve() as server:
        run(server, "--concurrency", "1", "--limit", "1")
    lines = facts(server.requests[0]).splitlines()
    metadata = read_json(Layout(world, "ego4d").metadata)[items_of(world).items[0].clip]
    box = metadata["hand_box_0"]
    left, top = box["x"] / metadata["width"], box["y"] / metadata["height"]
    assert any(line.startswith(f"- hand: {left:.2f} {top:.2f} ") for line in lines)
    assert lines[1] == "Boxes before the action (left top right bottom):"


def test_without_out_the_layout_says_where(tmp_path: Path) -> None:
    write_world(tmp_path / "toy", train=2, val=0, size=48, seed=3, workers=1)
    place = Layout(tmp_path / "toy", "ego4d").conversations
    flags = ["--dataset", "ego4d", "--data-root", str(tmp_path / "toy"), "--model", "m"]
    with serve() as server:
        flags += ["--base-url", server.url, "--cache", str(tmp_path / "cache")]
        with pytest.raises(UserError, match=f"{place}: exists, and was not made by this command"):
            main(flags)
        assert not server.requests
        place.unlink()
        main(flags)
    assert len(read_conversations(place)) == 2


def test_nothing_is_paid_twice(run: Run, tmp_path: Path) -> None:
    with serve() as server:
        assert run(server, "--price-in", "1", "--price-out", "2") == 0
        first = (tmp_path / "out.json").read_bytes()
        made = report_of(tmp_path)
        assert made["this_run"] == made["all_runs"]
        assert made["this_run"]["cost"] == pytest.approx(ACTIONS * (1000 + 2 * 50) / 1e6)
        assert run(server, "--price-in", "1", "--price-out", "2") == 0
        assert run(server, "--out", str(tmp_path / "other.json")) == 0
    assert len(server.requests) == ACTIONS
    assert (tmp_path / "out.json").read_bytes() == first == (tmp_path / "other.json").read_bytes()
    made = report_of(tmp_path)
    assert (made["this_run"]["answers"], made["all_runs"]["answers"]) == (0, ACTIONS)


def test_actions_of_equal_facts_are_asked_about_once(run: Run, tmp_path: Path) -> None:
    root = tmp_path / "same"
    layout = Layout(root, "epickitchen")
    actions = {
        str(number): {
            "image_0": f"c/{number}/a.jpg",
            "image_1": f"c/{number}/b.jpg",
            "action": "open door" if number % 2 else "close door",
        }
        for number in range(6)
    }
    write_json(layout.annotations("train"), {"c": actions})
    write_json(layout.metadata, {"c": {"height": 10, "width": 10}})
    with serve() as server:
        assert run(server, "--data-root", str(root), dataset="epickitchen") == 0
    assert sorted(map(action, server.requests)) == ["close door", "open door"]
    assert len(read_conversations(tmp_path / "out.json")) == 6


def test_an_answer_with_faults_is_asked_again_with_a_hint(run: Run, tmp_path: Path) -> None:
    bad = completion("- The hand\n- does it.")
    with serve(in_turn(bad, describe)) as server:
        assert run(server, "--limit", "1") == 0
    first, second = (request["messages"] for request in server.requests)
    assert second[: len(first)] == first
    assert [message["role"] for message in second[len(first) :]] == ["assistant", "user"]
    assert second[-2]["content"] == "- The hand\n- does it."
    assert "it holds a list, markup or code" in second[-1]["content"]
    made = report_of(tmp_path)
    assert (made["described"], made["all_runs"]["answers"]) == (1, 2)
    assert made["answers_that_failed_by_check"]["markdown"] == 1


@pytest.mark.parametrize(
    ("name", "more"), [("cut", {"finish": "length"}), ("refusal", {"message": {"refusal": "No."}})]
)
def test_an_answer_that_is_cut_off_or_marked_as_a_refusal_is_asked_again(
    run: Run, tmp_path: Path, name: str, more: dict[str, Any]
) -> None:
    def bad(request: dict[str, Any]) -> Answer:
        return completion(describe(request).body["choices"][0]["message"]["content"], **more)

    with serve(in_turn(bad, describe)) as server:
        assert run(server, "--limit", "1") == 0
    assert len(server.requests) == 2
    assert report_of(tmp_path)["answers_that_failed_by_check"] == {name: 1}


def test_what_stays_bad_is_left_out_with_its_reason(
    world: Path, run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    victim = items_of(world).items[2]

    def answer(request: dict[str, Any]) -> Answer:
        return REFUSAL if action(request) == words[2] else describe(request)

    words = [text.removeprefix("#C C ") for text in (item.action.action for item in items_of(world))]
    with serve() as server:
        run(server, "--concurrency", "1", "--out", str(tmp_path / "x.json"), "--cache", str(tmp_path / "x"))
        words = [action(request) for request in server.requests]
    same = words.count(words[2])
    with serve(answer) as server:
        assert run(server, "--ask-again", "1") == 3
        assert len(server.requests) == ACTIONS + same
        assert run(server, "--ask-again", "1") == 3
        assert len(server.requests) == ACTIONS + same
        made = report_of(tmp_path)
        assert (made["described"], made["left_out"]) == (ACTIONS - same, same)
        assert made["left_out_by_check"] == {"refusal": same}
        entry = {"clip": victim.clip, "id": victim.id, "action": victim.action.action}
        told = {**entry, "reason": "it declines, or asks back, instead of describing the action"}
        assert told in made["actions_left_out"]
        # More tries take the answers that are there and ask once more.
        assert run(server, "--ask-again", "2") == 3
        assert len(server.requests) == ACTIONS + 2 * same
    assert f"{ACTIONS} actions: {ACTIONS - same} described, {same} left out (refusal {same})" in caplog.text
    assert len(read_conversations(tmp_path / "out.json")) == ACTIONS - same


def test_a_dry_run_asks_nothing_and_writes_nothing(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prices = ["--price-in", "1", "--price-out", "2"]
    with serve() as server:
        assert run(server, "--dry-run", *prices) == 0
        assert not server.requests
        assert not any(tmp_path.iterdir())
        told = capsys.readouterr().out
        run(server, "--limit", "3", *prices)
        assert run(server, "--dry-run", *prices) == 0
    assert [line.split()[:2] for line in told.splitlines()] == [
        ["actions", f"{ACTIONS};"],
        ["to", "ask"],
        ["tokens", "in"],
        ["out", "442,"],
        ["cost", told.splitlines()[-1].split()[1]],
    ]
    read = int(told.splitlines()[2].split()[2].strip(",").replace(",", ""))
    # By the true tokenizers such a request has about 1,380 tokens.
    assert read / ACTIONS == pytest.approx(1380, rel=0.05)
    cost = float(told.splitlines()[-1].split()[1].strip(","))
    assert cost == pytest.approx((read + 2 * 442) / 1e6, abs=1e-4)
    assert f"{ACTIONS - 3}; what is asked again" in capsys.readouterr().out


def test_shards_are_joined_by_a_run_without_them(run: Run, tmp_path: Path) -> None:
    with serve() as server:
        for shard in ("1/3", "2/3", "3/3"):
            assert run(server, "--shard", shard) == 0
        assert len(server.requests) == ACTIONS
        parts = [read_json(tmp_path / f"out_shard_{index}_of_3.json") for index in (1, 2, 3)]
        assert [len(part) for part in parts] == [3, 3, 2]
        assert run(server) == 0
    assert len(server.requests) == ACTIONS
    whole = read_json(tmp_path / "out.json")
    assert sorted(record["id"] for part in parts for record in part) == [record["id"] for record in whole]
    with serve() as server, pytest.raises(UserError, match="--shard '4/3': expected i/n"):
        run(server, "--shard", "4/3")


def test_settings_of_a_run_that_made_nothing_are_forgotten(run: Run) -> None:
    unknown = Answer(404, {"error": {"message": "no such model"}})
    with serve(in_turn(unknown, describe)) as server:
        with pytest.raises(UserError, match="no such model"):
            run(server, "--model", "tpyo", "--concurrency", "1")
        assert run(server) == 0


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--model", "n"], "model = 'm'"),
        (["--temperature", "0"], "temperature = 0.7"),
        (["--images"], "images"),
    ],
)
def test_settings_are_not_mixed(run: Run, tmp_path: Path, flags: list[str], named: str) -> None:
    with serve() as server:
        run(server, "--limit", "1")
        asked = len(server.requests)
        with pytest.raises(UserError, match=f"out.manifest.json: the folder was made with {named}"):
            run(server, *flags)
        assert len(server.requests) == asked
        assert run(server, *flags, "--limit", "1", "--out", str(tmp_path / "b.json")) == 0
    assert len(server.requests) == asked + 1


def test_another_prompt_is_another_question(run: Run, tmp_path: Path) -> None:
    raw = yaml.safe_load(OURS.read_text())
    raw["version"], raw["system"] = "mine", "Write {min_words} words."
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(raw))
    with serve() as server:
        assert run(server, "--limit", "1", "--prompt", str(tmp_path / "p.yaml")) == 0
    assert server.requests[0]["messages"][0] == {"role": "system", "content": "Write 15 words."}
    assert report_of(tmp_path)["settings"]["prompt"] == "mine"


def test_images_are_sent_downscaled(world: Path, run: Run, tmp_path: Path) -> None:
    item = items_of(world).items[0]
    root = tmp_path / "big"
    layout = Layout(root, "ego4d")
    write_json(layout.annotations("train"), {item.clip: {item.id: item.action.entry}})
    write_json(layout.metadata, {})
    frame = layout.frames("train") / item.action.image_0
    frame.parent.mkdir(parents=True)
    Image.new("RGB", (1280, 720), (200, 30, 30)).save(frame)
    with serve() as server:
        assert run(server, "--images", "--data-root", str(root)) == 0
        assert run(server, "--images", "--data-root", str(root)) == 0
    assert len(server.requests) == 1
    text, picture = server.requests[0]["messages"][-1]["content"]
    assert (text["type"], picture["type"]) == ("text", "image_url")
    head, _, data = picture["image_url"]["url"].partition(",")
    assert head == "data:image/jpeg;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as sent:
        assert sent.size == (512, 288)
    assert all(isinstance(message["content"], str) for message in server.requests[0]["messages"][:-1])


def test_actions_that_cannot_be_asked_about_are_left_out(run: Run, tmp_path: Path) -> None:
    root = tmp_path / "odd"
    layout = Layout(root, "ego4d")
    labels = ["#C C", "#C C takes <image>", "#C C says </s>", "#C C opens the door"]
    actions = {
        str(number): {"image_0": f"c/{number}/a.jpg", "image_1": f"c/{number}/b.jpg", "action": label}
        for number, label in enumerate(labels)
    }
    write_json(layout.annotations("train"), {"c": actions})
    write_json(layout.metadata, {"c": {"height": 10, "width": 10}})
    with serve() as server:
        assert run(server, "--data-root", str(root)) == 3
        assert len(server.requests) == 1
        reasons = [entry["reason"] for entry in report_of(tmp_path)["actions_left_out"]]
        assert reasons[0] == "the label '#C C' names no action"
        assert "<image> stands for the frame" in reasons[1]
        assert (
            reasons[2] == "label '#C C says </s>': it holds </s>, which the model reads as a sign of its own"
        )
        out = ["--out", str(tmp_path / "images.json")]
        assert run(server, "--data-root", str(root), "--images", *out) == 3
        assert len(server.requests) == 1
    made = read_json(tmp_path / "images.report.json")
    assert "no such frame" in made["actions_left_out"][-1]["reason"]


def test_the_endpoint_may_come_from_the_environment(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve() as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        flags = command(world, tmp_path, server, "--limit", "1")
        place = flags.index("--base-url")
        main(flags[:place] + flags[place + 2 :])
    assert len(server.requests) == 1


def test_the_val_split_goes_where_it_is_told(run: Run, tmp_path: Path) -> None:
    with serve() as server:
        assert run(server, "--split", "val") == 0
    assert len(read_conversations(tmp_path / "out.json")) == 2


@pytest.mark.slow
def test_as_a_user_types_it(world: Path, tmp_path: Path) -> None:
    with serve(in_turn(describe, REFUSAL)) as server:
        environment = {**os.environ, "OPENAI_API_KEY": KEY}
        ran = subprocess.run(
            [sys.executable, "-m", "llava.curate", *command(world, tmp_path, server, "--ask-again", "0")],
            cwd=ROOT,
            env=environment,
            text=True,
            capture_output=True,
            check=False,
        )
    assert ran.returncode == 3
    assert f"{ACTIONS} actions: 1 described, {ACTIONS - 1} left out (refusal {ACTIONS - 1})" in ran.stderr
    assert "HTTP Request" not in ran.stderr
    assert ran.stderr.count("left out: clip") == 5
    assert json.loads((tmp_path / "out.manifest.json").read_text())["model"] == "m"
