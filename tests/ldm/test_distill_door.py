"""What the words of `python -m ldm.distill` become, and which checkpoints may teach, go on or be baked."""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from egogen.errors import UserError
from ldm.checkpoints.single_file import SingleFile
from ldm.config.distillation import DistillConfig
from ldm.config.merge import load_config
from ldm.distill import main
from ldm.distilling import baking, beginning
from ldm.distilling.beginning import DISTILLATION, check_student, check_teacher
from ldm.networks.architecture import Parts, build
from ldm.networks.distilled import DISTILLED, Distilled
from ldm.networks.shapes import Streams
from ldm.training import early_checks, run
from tests.ldm.toy_run import SHAPE

TOY = Path(__file__).parents[2] / "configs" / "distill_guidance_toy.yaml"
RANGES = Distilled([1, 5], [1, 2])


@cache
def networks() -> Parts:
    """Some, of toy size."""
    return build(SHAPE)


def source(name: str) -> SingleFile:
    """A checkpoint of which the path alone counts."""
    found = SingleFile.__new__(SingleFile)
    found.path = Path(name)
    return found


def test_words_of_baking(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[object] = []
    monkeypatch.setattr(baking, "bake_checkpoint", lambda *words: given.append(words))
    main(["bake", "a.ckpt", "b", "--scales", "3", "1.5"])
    monkeypatch.setattr(
        "sys.argv", ["distill", "bake", "a.ckpt", "b", "--scales", "3", "1.5", "--no-ema", "--stock"]
    )
    main()
    assert given == [
        (Path("a.ckpt"), Path("b"), 3.0, 1.5, True, False),
        (Path("a.ckpt"), Path("b"), 3.0, 1.5, False, True),
    ]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            [],
            [
                "usage: python -m ldm.distill [",
                "Distils LEGO",
                "--teacher FILE",
                "bake SRC DST --scales W_T W_I: see",
            ],
        ),
        (
            ["bake"],
            ["usage: python -m ldm.distill bake [", "--scales W_T W_I", "for one pair of guidance scales"],
        ),
    ],
)
def test_help_of_both_doors(words: list[str], told: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*words, "--help"])
    assert ended.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert all(part in shown for part in told)


def test_words_of_a_distillation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line's own where none are given."""
    given: list[tuple[Any, ...]] = []
    monkeypatch.setattr(run, "train", lambda *words: given.append(words))
    monkeypatch.setattr(early_checks, "check_early", lambda *_: None)  # whether files are there
    words = ["--base", f"{TOY}", "--teacher", "t.ckpt", "--logdir", f"{tmp_path}", "--name", "n"]
    main([*words, "--train", "--resume", "r.ckpt"])
    monkeypatch.setattr("sys.argv", ["distill", *words])
    main()
    (config, *rest), (_, *others) = given
    folder = tmp_path / "distill_guidance_toy_n"
    assert isinstance(config, DistillConfig)
    assert config.model.start == "t.ckpt"
    assert rest == [folder, [], Path("r.ckpt"), True, DISTILLATION]
    assert others == [folder, [], None, False, DISTILLATION]


def test_a_distillation_needs_a_teacher() -> None:
    told = r"names no checkpoint; give the checkpoint to distil by --teacher FILE$"
    with pytest.raises(UserError, match=told):
        main(["--base", f"{TOY}"])


def test_a_teacher_has_a_path_and_knows_the_scales() -> None:
    for text, image in (([1, 5], [1, 2]), ([2, 3], [1.5, 1.5])):
        check_teacher(source("t.ckpt"), RANGES, Distilled(text, image))
    for has, told in (
        (
            replace(RANGES, text=[3, 3], image=[1, 1], baked=True),
            "t.ckpt: guidance scales are baked into it; distil from the checkpoint that was baked",
        ),
        (
            replace(RANGES, phases=4),
            "t.ckpt: it jumps over phases, and has no path to follow; the teacher is what it was distilled "
            "from, and this file may be what the student goes on from (distill.student)",
        ),
    ):
        with pytest.raises(UserError) as refused:
            check_teacher(source("t.ckpt"), has, RANGES)
        assert str(refused.value) == told


@pytest.mark.parametrize(
    ("text", "image", "told"),
    [
        ([0.5, 5], [1, 2], "text_scales: got [0.5, 5.0], allowed: within 1 to 5"),
        ([1, 5.5], [1, 2], "text_scales: got [1.0, 5.5], allowed: within 1 to 5"),
        ([1, 5], [0.5, 2], "image_scales: got [0.5, 2.0], allowed: within 1 to 2"),
        ([1, 5], [1, 2.5], "image_scales: got [1.0, 2.5], allowed: within 1 to 2"),
    ],
)
def test_scales_that_are_not_known_are_refused(text: list[float], image: list[float], told: str) -> None:
    wanted = Distilled(text, image)
    with pytest.raises(UserError) as refused:
        check_teacher(source("t.ckpt"), RANGES, wanted)
    assert str(refused.value) == f"distill.{told}, for which the teacher t.ckpt was distilled"
    with pytest.raises(UserError) as refused:
        check_student(source("s.ckpt"), RANGES, wanted)
    assert str(refused.value) == f"distill.{told}, for which distill.student was distilled (s.ckpt)"


def test_a_student_goes_on_within_its_scales_and_to_any_phases_unless_it_has_some() -> None:
    for wanted in (RANGES, Distilled([2, 5], [1, 1.5], phases=8)):
        check_student(source("s.ckpt"), RANGES, wanted)
    has = replace(RANGES, phases=4)
    check_student(source("s.ckpt"), has, replace(RANGES, phases=4))
    for phases in (8, None):
        with pytest.raises(UserError) as refused:
            check_student(source("s.ckpt"), has, replace(RANGES, phases=phases))
        assert str(refused.value) == (
            "distill.student: s.ckpt jumps over 4 phases; expected distill.method=consistency with "
            "distill.phases of at most 4"
        )


def test_a_baked_student_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    baked = source("s.ckpt")
    baked.content = {DISTILLED: asdict(Distilled([3, 3], [1, 1], baked=True))}
    monkeypatch.setattr(beginning, "open_source", lambda path: baked if path == Path("s.ckpt") else None)
    nothing: Any = Parts(*[None] * 4)  # type: ignore[arg-type]
    config = DistillConfig()
    config = replace(config, distill=replace(config.distill, student="s.ckpt"))
    with pytest.raises(UserError) as refused:
        beginning.first_student(nothing, config)
    assert str(refused.value) == (
        "s.ckpt: guidance scales are baked into it; distill.student takes the one that was baked"
    )


def test_baking_looks_at_the_target_first_and_hands_on_what_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    did: list[tuple[object, ...]] = []

    class Loaded:
        unet = "unet"

    for name in ("check_target", "bake", "write_checkpoint"):
        monkeypatch.setattr(baking, name, lambda *words, name=name: did.append((name, *words)))

    def load_parts(path: Path, *, use_ema: bool) -> type[Loaded]:
        did.append(("load_parts", path, use_ema))
        return Loaded

    monkeypatch.setattr(baking, "load_parts", load_parts)
    with caplog.at_level("INFO"):
        baking.bake_checkpoint(Path("a"), Path("b"), 3.0, 1.5)
        baking.bake_checkpoint(Path("a"), Path("b"), 3.0, 1.5, use_ema=False, stock=True)
    assert did == [
        ("check_target", Path("b"), False),
        ("load_parts", Path("a"), True),
        ("bake", "unet", 3.0, 1.5),
        ("write_checkpoint", Loaded, Path("b"), False),
        ("check_target", Path("b"), True),
        ("load_parts", Path("a"), False),
        ("bake", "unet", 3.0, 1.5),
        ("write_checkpoint", Loaded, Path("b"), True),
    ]
    assert caplog.messages == ["wrote b"] * 2


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, ...]]:
    """What is asked of a distilled checkpoint at t.ckpt, which has the networks of `networks`."""
    found: list[tuple[object, ...]] = []
    there = source("t.ckpt")
    there.content = {DISTILLED: asdict(RANGES)}

    def load_parts(*words: object, **how: object) -> Parts:
        found.append(("load", *words, how))
        return networks()

    monkeypatch.setattr(beginning, "open_source", lambda path: {Path("t.ckpt"): there}[path])
    monkeypatch.setattr(beginning, "with_sizes", lambda model, _: replace(model, architecture=SHAPE))
    monkeypatch.setattr(beginning, "load_parts", load_parts)
    for name in ("check_teacher", "check_student"):
        monkeypatch.setattr(beginning, name, lambda *words, name=name: found.append((name, *words)))
    return found


def test_a_teacher_is_checked_and_loaded_with_what_the_student_needs(
    asked: list[tuple[object, ...]], caplog: pytest.LogCaptureFixture
) -> None:
    config = load_config(DistillConfig, [], ["model.start=t.ckpt", "model.text_features=false"])
    with caplog.at_level("INFO"):
        loaded, parts = beginning.load_teacher(config)
    assert parts is networks()
    assert loaded == replace(config, model=replace(config.model, architecture=SHAPE))
    (check, there, has, wanted), (load, again, shape, how) = asked
    assert (check, has, wanted) == ("check_teacher", RANGES, config.distill.stated)
    assert (load, shape) == ("load", SHAPE)
    assert there is again
    assert how == {"conditioner": True, "streams": Streams(True, False)}
    assert caplog.messages == ["load the teacher t.ckpt"]


def test_a_student_that_goes_on_is_checked_and_loaded_without_a_conditioner(
    asked: list[tuple[object, ...]], caplog: pytest.LogCaptureFixture
) -> None:
    config = load_config(DistillConfig, [], ["model.start=x.ckpt", "distill.student=t.ckpt"])
    config = replace(config, model=replace(config.model, architecture=SHAPE))
    with caplog.at_level("INFO"):
        assert beginning.first_student(networks(), config) is networks().unet
    (check, there, has, wanted), (load, again, shape, how) = asked
    assert (check, has, wanted) == ("check_student", RANGES, config.distill.stated)
    assert (load, shape, how) == ("load", SHAPE, {"conditioner": False})
    assert there is again
    assert caplog.messages == ["the student goes on from t.ckpt"]


def test_a_student_begins_as_a_copy_of_its_teacher() -> None:
    config = load_config(DistillConfig, [], ["model.gradient_checkpointing=false"])
    config = replace(config, model=replace(config.model, architecture=SHAPE))
    module = beginning.begin(build(SHAPE), config)
    teacher, student = module.teacher_unet.conv_in.weight, module.unet.conv_in.weight
    assert student.equal(teacher)
    assert student.data_ptr() != teacher.data_ptr()
    assert module.config is config
