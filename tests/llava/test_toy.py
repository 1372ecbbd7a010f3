import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from random import Random

import pytest
import torch

from egogen.errors import UserError
from egogen.files import read_json, write_json
from egogen.toy.__main__ import main as make_world
from llava.checkpoints.config_json import read_config
from llava.checkpoints.weights import read_file
from llava.model import load, save
from llava.question.labels import QUESTION
from llava.question.prompts import prompt_ids
from llava.toy.__main__ import main
from llava.toy.pointing import Marks, marks, pointers, pointing_loss
from llava.toy.ship import main as ship
from llava.toy.toy_frames import SUBJECTS, talk, targets, views
from llava.tuning.conversations import encode, fault

SMALL = ("--vision-steps", "2", "--language-steps", "2", "--dataset", "ego4d")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world")
    make_world(["--out", str(root), "--train", "12", "--val", "2", "--size", "64", "--workers", "1"])
    return root


def build(data: Path, out: Path, more: Sequence[str] = SMALL) -> Path:
    main(["--data-root", str(data), "--out", str(out), *more])
    return out


@pytest.fixture(scope="module")
def built(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(data, tmp_path_factory.mktemp("start") / "llava")


def test_it_is_a_published_folder_with_clip_beside_it(built: Path) -> None:
    config = read_json(built / "config.json")
    assert config["model_type"] == "llava"
    assert (built.parent / config["mm_vision_tower"] / "preprocessor_config.json").exists()
    weights = torch.load(built / "pytorch_model.bin", weights_only=True)
    assert "model.mm_projector.weight" in weights
    assert "model.vision_tower.vision_tower.vision_model.pre_layrnorm.weight" in weights
    for name in (
        "generation_config.json",
        "tokenizer.model",
        "tokenizer_config.json",
        "special_tokens_map.json",
    ):
        assert (built / name).exists(), name
    model, tokenizer, _ = load(built)
    assert model.patches == 256
    assert (tokenizer.unk_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 2)
    assert 300 < len(tokenizer) <= 640


def test_its_tokenizer_writes_toy_texts_shortly_and_others_in_bytes(built: Path) -> None:
    tokenizer = load(built)[1]
    assert len(prompt_ids(QUESTION, "pick up the cup", tokenizer)) < 110
    text = "cr\u00e8me br\u00fbl\u00e9e \u2603"
    assert str(tokenizer.decode(tokenizer(text).input_ids[1:])).strip() == text


def test_its_questions_can_be_learnt_from_and_point_at_their_objects(built: Path, data: Path) -> None:
    tokenizer = load(built)[1]
    for view in views(data, "ego4d"):
        said = talk(view, Random(0))
        example = encode(said.record, tokenizer, 512)
        assert fault(said.record, example) is None
        kinds = [thing.kind for thing in said.things]
        nouns = [tokenizer(kind).input_ids[1] for kind in kinds]
        shown = targets(view.story, 16).subject
        found = pointers(example, nouns, [shown == SUBJECTS.index(kind) for kind in kinds])
        for answer, noun, kind in zip(found.answers, found.nouns, kinds, strict=True):
            assert noun < answer.start
            assert str(tokenizer.decode([example.ids[noun]])).strip() == kind
            text = str(tokenizer.decode([example.ids[place + 1] for place in answer]))
            assert text.strip().startswith("The")
            assert kind in text
        looked = marks([(example, found)], len(example.ids) + 255, 256)
        assert looked.nouns.sum() == sum(len(answer) for answer in found.answers)


def test_pointing_is_measured_as_a_surprise(built: Path) -> None:
    model = load(built)[0]
    states = [torch.randn(1, 4, 128) for _ in range(4)]
    everywhere = torch.ones(1, 4, 4, dtype=torch.bool).tril()
    assert pointing_loss(model, states, Marks(everywhere, everywhere)).item() == pytest.approx(0.0, abs=1e-5)
    first = torch.zeros_like(everywhere)
    first[:, :, 0] = True
    assert pointing_loss(model, states, Marks(first, first)).item() > 0


def test_patches_are_told_apart(data: Path) -> None:
    for view in views(data, "ego4d"):
        shown = targets(view.story, 16)
        seen = {SUBJECTS[index] for index in shown.subject.tolist()}
        # Every kind of thing in the middle square shows in some patch; of the hands at least one.
        assert seen <= {"", "forward", "hand", *(thing.kind for thing in view.scene.things)}
        assert seen & {"forward", "hand"}
        assert len(seen) > 2


def test_the_same_seed_gives_the_same_weights_wherever_the_data_lie(
    built: Path, data: Path, tmp_path: Path
) -> None:
    again = build(shutil.copytree(data, tmp_path / "elsewhere"), tmp_path / "llava")
    assert (again / "tokenizer.model").read_bytes() == (built / "tokenizer.model").read_bytes()
    first, second = (torch.load(folder / "pytorch_model.bin", weights_only=True) for folder in (built, again))
    assert all(torch.allclose(first[name], second[name], atol=1e-6) for name in first)


def test_what_is_there_is_left_and_other_seeds_are_not_mixed(built: Path, data: Path) -> None:
    before = (built / "pytorch_model.bin").stat().st_mtime_ns
    build(data, built)
    assert (built / "pytorch_model.bin").stat().st_mtime_ns == before
    with pytest.raises(UserError, match="seed"):
        build(data, built, [*SMALL, "--seed", "1"])
    weights = built / "pytorch_model.bin"
    for size in (0, weights.stat().st_size // 2):
        os.truncate(weights, size)
        build(data, built)
        load(built)


def test_other_data_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a toy world"):
        build(tmp_path, tmp_path / "llava")


def test_a_world_of_another_version_is_refused(data: Path, tmp_path: Path) -> None:
    root = tmp_path / "world"
    for file in data.rglob("*.json"):
        target = root / file.relative_to(data)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.read_bytes())
    path = root / "EgoGen" / "ego4d_metadata.json"
    facts = json.loads(path.read_text())
    facts["toy_train_000003"]["description"] = "Something else."
    write_json(path, facts)
    with pytest.raises(UserError, match=r"toy_train_000003.*another version"):
        build(root, tmp_path / "llava")


def test_no_steps_are_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--vision-steps 0"):
        build(data, tmp_path / "llava", ["--vision-steps", "0"])


def test_what_is_shipped_reads_as_what_was_built(built: Path, tmp_path: Path) -> None:
    """Stage 1's half of the toy start: both folders in 16 bits, CLIP once, read by the published loader."""
    save(*load(built), tmp_path / "tuned")  # as llava.train leaves it: in Hugging Face's format
    ship(["--start", str(built), "--tuned", str(tmp_path / "tuned"), "--out", str(tmp_path)])
    wanted = load(built)[0].state_dict()
    for name in ("llava", "vllm"):
        model, tokenizer, processor = load(tmp_path / name)
        assert model.state_dict().keys() == wanted.keys()
        for key, value in model.state_dict().items():
            torch.testing.assert_close(value, wanted[key].half().to(value.dtype), rtol=0, atol=0)
        assert tokenizer("the red cup").input_ids == load(built)[1]("the red cup").input_ids
        assert processor.crop_size["height"] == 64
        assert not any("vision" in key for key in read_file(tmp_path / name / "model.safetensors"))
    clip = tmp_path / read_config(built)["mm_vision_tower"]
    assert sorted(path.name for path in clip.iterdir()) == [
        "config.json", "model.safetensors", "preprocessor_config.json",
    ]  # fmt: skip


def test_llavas_of_two_clips_are_not_shipped(built: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(built, other)
    write_json(other / "config.json", {**read_json(other / "config.json"), "mm_vision_tower": "a/b"})
    with pytest.raises(UserError, match="expected the CLIP beside"):
        ship(["--start", str(built), "--tuned", str(other), "--out", str(tmp_path / "out")])
