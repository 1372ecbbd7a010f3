"""No value of any setting ends in a traceback: it is taken, or refused in one line."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from egogen.errors import UserError
from ldm.config.merge import fields_of, load_config, section_of, split_words, validated
from ldm.config.ranges import GridSteps, Steps
from ldm.config.sections import GenerateConfig, TrainConfig
from ldm.diffusion.schedule import TRAINING_STEPS, training_schedule

NAN, INF = float("nan"), float("inf")
VALUES = (
    NAN, INF, -INF, -1, -0.5, 0, 0.5, 1, 3, 1e-320, 1e30, 1e308, 10**30, 10**400, 10**5000, -(10**5000), True,
    False, None, "x", "3", "nan", "", [], [NAN], [1, 2], [0.9], [0.9, 1.5], [True, 0.5], [10**400, 0.5], {},
    {"a": NAN}, {"a": 1}, {1: 2}, [[1]], [{}], [{"root": 3}],
)  # fmt: skip
WORDS = (
    "9" * 5000, "0x" + "f" * 5000, "[" * 1000, "{a: " * 1000, "${", "${nope:1}", "${data}", "!!int x", "[1",
    "!!timestamp 3", "!!bool x", "!!python/name:os.system", "~nobody-of-this-name/x", "\0", "a: b: c",
    "1:2:3",
)  # fmt: skip


def sections(kind: type) -> set[type]:
    """A section and all inside it."""
    inner = [section_of(field) for field in fields_of(kind).values()]
    return {kind}.union(*(sections(section) for section in inner if section))


def message(call: Callable[[], object]) -> str:
    """What a user is told; nothing if the value is taken. Any other error is a fault."""
    try:
        call()
    except UserError as error:
        return f"{error}"
    return ""


@pytest.mark.parametrize("kind", sorted(sections(TrainConfig) | sections(GenerateConfig), key=str))
def test_every_field_takes_or_refuses_any_value_in_one_line(kind: type) -> None:
    for name in fields_of(kind):
        told = [message(partial(validated, kind, {name: value})) for value in VALUES]
        assert sum(map(bool, told)) > len(VALUES) / 3, name
        assert all(len(line) < 500 and "\n" not in line for line in told), name
        assert not any("no such key" in line for line in told[: VALUES.index("")]), name


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("key", ["optimizer.betas", "model", "model.start", "joint", "a.b"])
def test_any_word_is_one_line(key: str, word: str) -> None:
    told = message(lambda: load_config(TrainConfig, [], [f"{key}={word}"]))
    assert "\n" not in told
    assert len(told) < 700


@pytest.mark.parametrize("content", [*WORDS, "\ud800".encode("utf-8", "surrogatepass")])
def test_any_file_is_one_line(tmp_path: Path, content: str | bytes) -> None:
    raw = content if isinstance(content, bytes) else f"optimizer: {{lr: {content}}}".encode()
    (tmp_path / "a.yaml").write_bytes(raw)
    told = message(lambda: load_config(TrainConfig, [tmp_path / "a.yaml"]))
    assert told or content == "1:2:3"
    assert "\n" not in told


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("optimizer.betas=[0.9]", r"optimizer\.betas: got \[0\.9\], allowed: two numbers, 0 to less than 1"),
        (
            "optimizer.betas=[0.9,1.5]",
            r"optimizer\.betas\.1: got 1\.5, allowed: two numbers, 0 to less than 1",
        ),
        ("optimizer.eps=-1", r"optimizer\.eps: got -1, allowed: more than 0"),
        ("optimizer.eps=0", "optimizer.eps: got 0"),
        ("optimizer.weight_decay=-1", r"optimizer\.weight_decay: got -1, allowed: 0 or more"),
        ("optimizer.lr=.inf", r"optimizer\.lr: got inf, allowed: a finite number, more than 0"),
        ("optimizer.lr=.nan", r"optimizer\.lr: got nan, allowed: a finite number, more than 0"),
        ("optimizer.lr=1e300", r"optimizer\.lr: got 1e\+300, allowed: more than 0, up to 1,000,000,000"),
        ("trainer.seed=-1", r"trainer\.seed: got -1, allowed: 0 or more"),
        ("trainer.max_steps=0", r"trainer\.max_steps: got 0, allowed: at least 1, or -1 for no limit"),
        ("trainer.max_steps=0x" + "f" * 5000, r"trainer\.max_steps: got a number of thousands of digits"),
        ("sampling.steps=1001", r"sampling\.steps: got 1001, allowed: 1 to 1,000"),
        ("sampling.scales_txt=[1,.nan]", r"sampling\.scales_txt\.1: got nan, allowed: a finite number"),
        ("data.workers=true", r"data\.workers: got True, allowed: a number"),
        ("sampling.scales_txt={}", "configuration: Cannot merge incompatible container types"),
        ("model=[1]", r"model: got \[1\], allowed: settings by name"),
        ("model.architecture.unet.heads=0", r"model\.architecture\.unet\.heads: got 0"),
        ("data.root=~nobody-of-this-name/x", "there is no such home folder"),
    ],
)
def test_what_is_allowed_is_said(word: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_config(TrainConfig, [], [word])


@pytest.mark.parametrize("word", ["sampling.steps", "sampling.steps:", "data.a.b", "sampling.steps:4"])
def test_a_setting_without_its_sign_is_no_missing_file(word: str) -> None:
    with pytest.raises(UserError, match=f"^'{word}': neither a YAML file nor key=value; is the = missing"):
        split_words(["sampling.seed=3", word])


def test_files_are_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = ["a.yaml", "no.such.yml", "c.v2.yaml", "sub.dir/x.yaml", "own.config"]
    Path("own.config").touch()
    assert split_words(names) == ([*map(Path, names)], [])


def test_every_timestep_is_a_step() -> None:
    assert TRAINING_STEPS == 1000 == len(training_schedule()["betas"])
    for kind, most in ((Steps, TRAINING_STEPS), (GridSteps, TRAINING_STEPS - 1)):
        assert TypeAdapter(kind).validate_python(most) == most
        with pytest.raises(ValidationError):
            TypeAdapter(kind).validate_python(most + 1)


def test_home_is_expanded_in_files_and_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.yaml").write_text("data: {root: ~/data, features: /f}\njoint: [{root: ~/other}]\n")
    config = load_config(TrainConfig, [tmp_path / "a.yaml"], ["model.start=~/sd.ckpt"])
    assert (config.data.root, config.data.features) == (f"{tmp_path}/data", "/f")
    assert (config.joint[0].root, config.model.start) == (f"{tmp_path}/other", f"{tmp_path}/sd.ckpt")
