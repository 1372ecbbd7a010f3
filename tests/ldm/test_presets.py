"""Presets: what their files say, what goes before them, and what a distilled checkpoint makes of them."""

from __future__ import annotations

import re

import pytest
import torch

from egogen import cli
from egogen.errors import UserError
from ldm.checkpoints.stated_sizes import drawn_with, guidance_of, state_guidance
from ldm.config.merge import load_config
from ldm.config.sections import GenerateConfig, SamplingConfig
from ldm.denoiser import passes
from ldm.diffusion.choices import PRESETS
from ldm.diffusion.sampler import make_scheduler, noise_levels, set_timesteps
from ldm.guidance import Guidance, Interval
from ldm.networks.architecture import build
from ldm.networks.distilled import Distilled
from ldm.networks.scales import add_scale_layer, bake, distilled_of, state_distilled
from ldm.sampling.drawing_config import adapted, for_checkpoint
from ldm.sampling.edit_options import EditOptions
from ldm.sampling.presets import read_preset
from tests.ldm.toy_run import SHAPE
from tests.workbench import ROOT

CONFIGS = ROOT / "configs"
STUDENT = Distilled([1, 5], [1, 2], phases=4)
BAKED = Distilled([3, 3], [1.5, 1.5], phases=4, baked=True)


def options(*words: str) -> EditOptions:
    needed = ["--input", "a.jpg", "--prompt", "cut", "--ckpt", "b.ckpt"]
    return cli.options(EditOptions, [*needed, *words], "edit", "")


def test_the_published_preset_is_the_default_of_configurations() -> None:
    assert read_preset("published") == SamplingConfig()


@pytest.mark.parametrize(("name", "expected"), [("published", 300), ("balanced", 50), ("fast", 24)])
def test_passes_of_presets_are_those_of_the_documentation(name: str, expected: int) -> None:
    sampling = read_preset(name)
    scheduler = make_scheduler(sampling.scheduler)
    set_timesteps(scheduler, sampling.steps, sampling.timesteps)
    intervals = Interval.of(sampling.interval_txt), Interval.of(sampling.interval_img)
    guidance = Guidance(sampling.scales_txt[0], sampling.scales_img[0], *intervals)
    with torch.device("meta"):
        unet = build(SHAPE).unet
    assert passes(unet, guidance, noise_levels(scheduler)) == expected
    assert f"| {expected} |" in (ROOT / "docs/stage2.md").read_text()


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("base", ["generate_ego4d", "generate_kitchen", "generate_toy"])
def test_presets_lie_over_configurations(name: str, base: str) -> None:
    below = load_config(GenerateConfig, [CONFIGS / f"{base}.yaml"])
    over = load_config(GenerateConfig, [CONFIGS / f"{base}.yaml", CONFIGS / "fast" / f"{name}.yaml"])
    preset = read_preset(name)
    for key in ("scheduler", "steps", "timesteps", "interval_txt", "interval_img", "adapt"):
        assert getattr(over.sampling, key) == getattr(preset, key)
    for key in ("scales_txt", "scales_img", "output_range", "seed"):
        assert getattr(over.sampling, key) == getattr(below.sampling, key)


def test_flags_go_before_the_preset() -> None:
    assert options().sampling() == read_preset("fast")
    published = options("--preset", "published", "--cfg-text", "3", "--interval-image", "1", "2").sampling()
    assert (published.steps, published.scales_txt, published.interval_img) == (100, [3.0], [1.0, 2.0])
    more = options("--steps", "20").sampling()
    assert (more.steps, more.timesteps, more.interval_txt) == (20, "own", [0.28, 5.42])
    other = options("--scheduler", "ddim").sampling()
    assert (other.scheduler, other.steps, other.timesteps) == ("ddim", 10, "own")
    assert (
        options("--preset", "balanced", "--steps", "10", "--timesteps", "ays").sampling().timesteps == "ays"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--timesteps", "ays", "--steps", "11"], "--steps: got 11, allowed: 10 with --timesteps ays"),
        (
            ["--timesteps", "ays", "--scheduler", "ddim"],
            "--scheduler: got 'ddim', allowed: dpmpp_2m or euler with --timesteps ays",
        ),
        (["--interval-text", "2", "1"], r"--interval-text: got \[2.0, 1.0\], allowed: two noise levels"),
        (["--scheduler", "eular"], "scheduler 'eular': allowed are euler_ancestral"),
    ],
)
def test_flags_that_do_not_fit_are_named(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        options(*words)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("sampling.timesteps=ays", "sampling.scheduler: got 'euler_ancestral', allowed: dpmpp_2m or euler"),
        ("sampling.timesteps=karras", "sampling.timesteps: got 'karras', allowed: own, ays"),
        ("sampling.interval_txt=[1]", r"sampling.interval_txt: got \[1.0\], allowed: two noise levels"),
        ("sampling.interval_img=[2,1]", r"sampling.interval_img: got \[2.0, 1.0\], allowed: two noise"),
        ("sampling.interval_img=[1,2,3]", "sampling.interval_img: got .*allowed: .*two noise levels, low"),
    ],
)
def test_settings_that_do_not_fit_are_named(word: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_config(GenerateConfig, [], [word])


@pytest.mark.parametrize("name", ["fast", "balanced"])
def test_a_student_of_phases_is_drawn_in_as_many_steps(name: str) -> None:
    sampling = for_checkpoint(read_preset(name), STUDENT)
    assert (sampling.scheduler, sampling.steps, sampling.timesteps) == ("ddim_trailing", 4, "own")
    assert (sampling.scales_txt, sampling.scales_img) == ([5.0], [1.5])  # the nearest to 7.5 and 1.5
    assert (sampling.interval_txt, sampling.interval_img) == ([], [])


def test_a_student_of_the_guidance_keeps_the_steps_and_a_baked_one_its_scales() -> None:
    guided = adapted(read_preset("fast"), Distilled([1, 14], [1, 3]))
    assert (guided.steps, guided.timesteps, guided.scales_txt, guided.interval_txt) == (10, "ays", [7.5], [])
    assert adapted(read_preset("fast"), BAKED).scales_txt == [3.0]


def test_flags_go_before_the_checkpoint_and_the_published_preset_is_not_adapted() -> None:
    assert options("--cfg-text", "4").sampling(STUDENT).scales_txt == [4.0]
    with pytest.raises(UserError, match=r"--cfg-text: got 7.5, allowed: 1 to 5, for which"):
        options("--preset", "published").sampling(STUDENT)
    with pytest.raises(UserError, match=r"sampling.scales_txt: got 7.5, allowed: 1 to 5"):
        for_checkpoint(read_preset("published"), STUDENT)


def test_scales_that_become_one_are_one_folder() -> None:
    made = adapted(SamplingConfig(scales_txt=[3, 7.5, 20], scales_img=[1.5, 3]), STUDENT)
    assert (made.scales_txt, made.scales_img) == ([3, 5], [1.5, 2])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--cfg-text", "20"], "--cfg-text: got 20.0, allowed: 1 to 5"),
        (["--cfg-image", "9"], "--cfg-image: got 9.0, allowed: 1 to 2"),
        (["--steps", "8"], "--steps: got 8, allowed: 4"),
        (["--scheduler", "euler_ancestral"], "--scheduler: got 'euler_ancestral', allowed: ddim_trailing"),
        (["--interval-text", "0.3", "5"], "--interval-text, --interval-image: got"),
    ],
)
def test_flags_that_a_student_cannot_follow_are_named_as_they_are_typed(
    words: list[str], message: str
) -> None:
    with pytest.raises(UserError) as found:
        options(*words).sampling(STUDENT)
    assert message in f"{found.value}"


def test_an_interval_may_end_at_infinity() -> None:
    assert options("--interval-text", "0", "inf").sampling().interval_txt == []
    assert options("--interval-text", "0.5", "inf").sampling().interval_txt == [0.5, 1e9]


def test_every_row_of_the_table_of_few_passes_has_the_passes_of_its_name() -> None:
    """`scripts/toy_fast.sh` draws curves over them."""
    script = (ROOT / "scripts/toy_fast.sh").read_text()
    interval = re.search(r'^interval="(.*?)"', script, re.MULTILINE)
    scales = re.search(r"^SCALES=\(([\d.]+) ([\d.]+)\)", script, re.MULTILINE)
    rows = re.findall(r'^    "(\w+)/(\d+) (\w+) (\S+=.*?)"$', script, re.MULTILINE)
    assert interval
    assert scales
    assert len(rows) == 21
    with torch.device("meta"):
        unet = build(SHAPE).unet
    for name, expected, checkpoint, settings in rows:
        words = [f"sampling.{word}" for word in settings.replace("$interval", interval[1]).split()]
        given = [f"sampling.scales_txt=[{scales[1]}]", f"sampling.scales_img=[{scales[2]}]"]
        sampling = load_config(GenerateConfig, [CONFIGS / "generate_toy.yaml"], [*given, *words]).sampling
        scheduler = make_scheduler(sampling.scheduler)
        set_timesteps(scheduler, sampling.steps, sampling.timesteps)
        intervals = Interval.of(sampling.interval_txt), Interval.of(sampling.interval_img)
        guidance = Guidance(sampling.scales_txt[0], sampling.scales_img[0], *intervals)
        levels = noise_levels(scheduler)
        found = passes(unet, guidance, levels) if checkpoint == "teacher" else len(levels)
        assert found == int(expected), name


def test_a_checkpoint_states_its_guidance_and_flags_go_before() -> None:
    assert options().sampling(None, [1.5, 1.0]).scales_txt == [1.5]
    made = options("--cfg-image", "2").sampling(None, [1.5, 1.0])
    assert (made.scales_txt, made.scales_img) == ([1.5], [2.0])
    assert options().sampling(None, None).scales_txt == [7.5]


@pytest.mark.parametrize(
    ("settings", "stated"),
    [
        ({"sampling": {"scales_txt": [1.5, 3.0], "scales_img": [1.0]}}, [1.5, 1.0]),
        ({"sampling": {"scales_txt": [], "scales_img": [1.0]}}, None),
        ({"sampling": {"scales_txt": ["x"], "scales_img": [1.0]}}, None),
        ({}, None),
        (None, None),
    ],
)
def test_the_settings_of_a_training_tell_its_guidance(settings: object, stated: list[float] | None) -> None:
    parts = build(SHAPE, conditioner=False)
    state_guidance(parts, drawn_with(settings))
    assert guidance_of(parts) == stated


def test_what_is_baked_in_is_the_guidance_that_is_stated() -> None:
    parts = build(SHAPE)
    state_guidance(parts, [1.5, 1.0])
    add_scale_layer(parts.unet)
    state_distilled(parts.unet, STUDENT)
    bake(parts.unet, 3.0, 1.2)
    stated = guidance_of(parts)
    assert stated == [3.0, 1.2]
    assert options().sampling(distilled_of(parts.unet), stated).scales_txt == [3.0]
