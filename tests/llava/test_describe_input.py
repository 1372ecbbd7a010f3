"""What is described, and what is not: labels, frames, arguments, answers; each mistake is a line."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from egogen import cli
from egogen.annotations import Annotations
from egogen.errors import UserError
from egogen.files import write_json
from egogen.manifest import checkpoint_hash
from llava.describe import Description, main
from llava.describing import describing_loop
from llava.describing.decode import Sampling
from llava.describing.saving import Descriptions
from llava.model import load
from tests.llava.describing import features_of, flags


def test_the_target_frame_can_be_described(split: Path, tiny: Path, tmp_path: Path) -> None:
    main(flags(split, tiny, tmp_path, "--setting", "description", "--greedy"))
    assert (tmp_path / "image" / "a" / "0" / "after_x.npy").exists()


@pytest.mark.parametrize(
    ("breaking", "message"),
    [
        (lambda root: (root / "frames/a/0/x.jpg").unlink(), "a/0/x.jpg: no such frame"),
        (
            lambda root: (root / "frames/c/0/x.png").write_bytes(b"\x89PNG"),
            "c/0/x.png: not a readable image",
        ),
        (lambda root: (root / "ego4d_val.json").write_text("[]"), "found list"),
        (lambda root: (root / "ego4d_val.json").write_text("{"), "not valid JSON"),
    ],
)
def test_bad_input_ends_with_one_line_and_code_2(
    split: Path,
    tiny: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    breaking: Callable[[Path], object],
    message: str,
) -> None:
    shutil.copytree(split, tmp_path / "split")
    breaking(tmp_path / "split")
    with pytest.raises(SystemExit) as ended:
        cli.run(lambda: main(flags(tmp_path / "split", tiny, tmp_path)))
    assert ended.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert message in lines[0]
    assert not list(tmp_path.rglob("*.npy"))


@pytest.mark.parametrize(
    "more",
    [
        ("--batch-size", "0"),
        ("--temperature", "0"),
        ("--temperature", "inf"),
        ("--greedy", "--temperature", "0.9"),
        ("--greedy", "--top-k", "3"),
        ("--max-new-tokens", f"1{'0' * 30}"),
        ("--top-k", "0"),
        ("--setting", "x"),
        ("--unknown",),
    ],
)
def test_bad_arguments_end_with_code_2(
    split: Path, tiny: Path, tmp_path: Path, more: tuple[str, ...]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(flags(split, tiny, tmp_path, *more))
    assert ended.value.code == 2


@pytest.mark.parametrize("query", ["How?", "{} {}", "<image> How {}?"])
def test_a_wrong_query_is_no_fault_of_labels(split: Path, tiny: Path, tmp_path: Path, query: str) -> None:
    with pytest.raises(UserError, match=r"^query '[^']*': "):
        main(flags(split, tiny, tmp_path, "--query", query))


def test_two_actions_of_one_frame_have_a_text_feature_each(split: Path, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "frames/a/0").mkdir(parents=True)
    shutil.copy(split / "frames/a/0/x.jpg", tmp_path / "frames/a/0/x.jpg")
    entry = {"image_0": "a/0/x.jpg", "image_1": "a/0/y.jpg"}
    actions = {"0": {**entry, "action": "#C C walks"}, "1": {**entry, "action": "#C C opens the box"}}
    write_json(tmp_path / "ego4d_val.json", {"a": actions})
    main(flags(tmp_path, tiny, tmp_path))
    texts = features_of(tmp_path / "text")
    assert list(map(str, texts)) == ["a/0/x.a.1.npy", "a/0/x.npy"]
    assert list(map(str, features_of(tmp_path / "image"))) == ["a/0/x.npy"]
    # A shard has the same names, though it knows one of the two only.
    main([*flags(tmp_path, tiny, tmp_path / "part"), "--shard", "2/2"])
    part = features_of(tmp_path / "part/text")
    assert np.allclose(part[Path("a/0/x.a.1.npy")], texts[Path("a/0/x.a.1.npy")], atol=2e-3)


@pytest.mark.parametrize(
    ("label", "said"),
    [
        ("#C C cuts </s>", r", label '#C C cuts </s>': it holds </s>"),
        ("#C C [/INST]", r"it holds \[/INST\]"),
        ("#C C", "it is blank"),
        ("#C C \u200b", "it is blank"),
        ("#C C cuts " + "the carrot and " * 700, "the model has places for 2033 beside the image"),
    ],
)
def test_labels_that_cannot_be_asked_about_are_named_first(
    label: str, said: str, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llava.model.load", lambda *_, **__: pytest.fail("the model was loaded"))
    entry = {"image_0": "a.jpg", "image_1": "b.jpg"}
    actions = {"0": {**entry, "action": "#C C walks"}, "1": {**entry, "action": label}}
    write_json(tmp_path / "ego4d_val.json", {"a": actions})
    with pytest.raises(UserError, match=rf"clip 'a' action '1'.*{said}.*1 of 2 actions"):
        main(flags(tmp_path, tiny, tmp_path))
    assert not (tmp_path / "texts").exists()


def test_answers_past_the_models_places_are_counted(
    split: Path,
    tiny: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(describing_loop, "places", lambda _: 100)
    main(flags(split, tiny, tmp_path, "--greedy", "--shard", "1/5"))
    assert "1 of 1 answers went past the model's 100 places" in caplog.text


def test_two_frames_of_one_feature_file_are_refused(tmp_path: Path, tiny: Path) -> None:
    entry = {"image_1": "b.jpg", "action": "#C C walks"}
    actions = {"0": {**entry, "image_0": "a.jpg"}, "1": {**entry, "image_0": "a.png"}}
    write_json(tmp_path / "ego4d_val.json", {"a": actions})
    with pytest.raises(UserError, match=r"a\.png .* would write the same image feature"):
        main(flags(tmp_path, tiny, tmp_path))


def test_a_batch_size_that_fits_a_gpu(monkeypatch: pytest.MonkeyPatch, tiny: Path) -> None:
    model = load(tiny)[0]
    assert describing_loop.fitting_batch_size(model, 100, Sampling()) == describing_loop.CPU_BATCH
    # 2 layers of width 64, keys and values of 4 bytes, 100 + 16 + 1024 places: 1,167,360 bytes a row.
    monkeypatch.setattr(type(model), "device", property(lambda _: torch.device("cuda")))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (10 * 1167360, 0))
    assert describing_loop.fitting_batch_size(model, 100, Sampling()) == 8
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (1000, 0))
    assert describing_loop.fitting_batch_size(model, 100, Sampling()) == 1


def test_labels_may_be_lemmatised_as_published(split: Path, tiny: Path, tmp_path: Path) -> None:
    raw = json.loads((split / "ego4d_val.json").read_text())
    raw = {"a": {"0": {**raw["a"]["0"], "action": "#C C scrapes the pan"}}}
    write_json(tmp_path / "ego4d_val.json", raw)
    (tmp_path / "frames").symlink_to(split / "frames")
    main(flags(tmp_path, tiny, tmp_path, "--lemmas", "wordnet"))
    texts = json.loads((tmp_path / "texts/chunk_1_of_1.json").read_text())
    assert texts["a"]["0"]["action"] == "scrap the pan"


def test_many_descriptions_are_found_as_each_alone_and_published_as_json(tmp_path: Path) -> None:
    entries = [
        {"image_0": "a/0/x.jpg", "image_1": "a/0/y.jpg", "action": f"opens \u2603 {number}"}
        for number in range(9)
    ]
    annotations = Annotations(
        {'a "b"': {f"{number}": entry for number, entry in enumerate(entries)}}, tmp_path
    )
    items, names = annotations.items, [f"{number}.jpg" for number in range(9)]
    rows = [
        {"clip": item.clip, "id": item.id, "original action": item.action.action, "action": "w\n",
         "feature": name, "description": f'text \\ "{name}" \U0001f600'}
        for item, name in zip(items, names, strict=True)
    ]  # fmt: skip
    assert not Descriptions(tmp_path / "none.jsonl").has_each(items, names).any()
    Descriptions(tmp_path / "j.jsonl").add(rows[::-2])
    journal = Descriptions(tmp_path / "j.jsonl")
    expected = [journal.has(item, name) for item, name in zip(items, names, strict=True)]
    assert journal.has_each(items, names).tolist() == expected == [True, False] * 4 + [True]
    assert not journal.has_each(items, names[::-1])[:4].any()
    journal.add(rows[1::2])
    assert journal.has_each(items, names).all()
    journal.publish(tmp_path / "all.json", items)
    kept = ("original action", "action", "description")
    published = {'a "b"': {row["id"]: {name: row[name] for name in kept} for row in rows}}
    assert (tmp_path / "all.json").read_text() == json.dumps(published, indent=4) + "\n"


def test_a_changed_label_or_feature_is_described_anew(tmp_path: Path, split: Path) -> None:
    items = Annotations.read(split / "ego4d_val.json").items
    journal = Descriptions(tmp_path / "j.jsonl")
    texts = {"original action": items[0].action.action, "action": "words", "description": "text \u2603"}
    journal.add([{"clip": items[0].clip, "id": items[0].id, **texts, "feature": "a/0/x.jpg"}])
    again = Descriptions(tmp_path / "j.jsonl")
    assert again.has(items[0], "a/0/x.jpg")
    assert not again.has(items[0], "a/0/x.a.0.jpg")
    assert not again.has(items[1], "a/0/x.jpg")
    assert not again.has(items[0]._replace(action=items[1].action), "a/0/x.jpg")
    whole = (tmp_path / "j.jsonl").read_text()
    for damaged in ("{broken}\n", whole.replace('"a/0/x.jpg"', "[]")):
        (tmp_path / "j.jsonl").write_text(whole + damaged)
        with pytest.raises(UserError, match="line 2 is damaged"):
            Descriptions(tmp_path / "j.jsonl")


def test_features_that_are_no_numbers_are_refused(
    split: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = describing_loop.describe

    def overflowing(*args: Any, **kwargs: Any) -> list[Description]:
        return [replace(made, text_features=made.text_features * 1e9) for made in real(*args, **kwargs)]

    monkeypatch.setattr(describing_loop, "describe", overflowing)
    with pytest.raises(UserError, match="try --dtype bfloat16"):
        main(flags(split, tiny, tmp_path))


def test_what_training_adds_changes_no_checkpoint_hash(tmp_path: Path, tiny: Path) -> None:
    shutil.copytree(tiny, tmp_path / "m")
    before = checkpoint_hash(tmp_path / "m")
    for name in ("record.json", "run.json", "trainer_state.json", "complete.json"):
        write_json(tmp_path / "m" / name, {"a": 1})
    assert checkpoint_hash(tmp_path / "m") == before
    write_json(tmp_path / "m" / "config.json", {})
    assert checkpoint_hash(tmp_path / "m") != before
