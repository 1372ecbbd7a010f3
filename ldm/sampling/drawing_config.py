"""The settings of a drawing: YAML files and words, as far as the method uses them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from egogen.errors import UserError, check
from egogen.files import read_yaml
from ldm.config.merge import load_config, split_words
from ldm.config.sections import GenerateConfig, SamplingConfig
from ldm.diffusion.choices import DDIM_TRAILING
from ldm.networks.distilled import IN_CONFIG, Distilled
from ldm.sampling.method_names import GUIDED, OF_GUIDED, PIPELINE, SECTIONED

log = logging.getLogger(__name__)
# Other methods' defaults: foreign pipelines show frames as they are, the stretch is LEGO's own (F-S2-02).
STARTS = {PIPELINE: GenerateConfig(sampling=SamplingConfig(output_range="clamp"))}


def read_config(words: Sequence[str], method: str, ckpt: Path | None) -> GenerateConfig:
    """The configuration: files, then words; stage 1's features serve LEGO alone.

    Raises:
        UserError: a setting is unknown or bad, or not what the checkpoint was distilled for, or the pipeline
            does not take it.
    """
    yamls, settings = split_words(words)
    check_words(settings, method)
    config = load_config(GenerateConfig, yamls, settings, STARTS.get(method))
    say_unused(yamls, method)
    model = replace(config.model, vllm_features=config.model.vllm_features and method == "lego")
    if method == PIPELINE and ckpt:
        return for_pipeline(replace(config, model=model), ckpt)
    if method not in GUIDED or not ckpt:
        return replace(config, model=model)
    from ldm.checkpoints.source import open_source, with_sizes

    source = open_source(ckpt)
    if model.vllm_features:  # features are as wide as the checkpoint says
        model = with_sizes(model, source)
    return replace(config, model=model, sampling=for_checkpoint(config.sampling, source.distilled))


def for_pipeline(config: GenerateConfig, ckpt: Path) -> GenerateConfig:
    """The settings by which a pipeline is drawn: at its own size; frames keep that of the other methods.

    Raises:
        UserError: it is no pipeline that draws frames from frames, or does not take an argument.
    """
    from ldm.baselines.pipeline_index import open_index

    index, given = open_index(ckpt), config.data.resolution
    if IN_CONFIG in index.settings("unet"):
        raise UserError(
            f"{ckpt}: is distilled, and would be guided a second time; draw it by --method lego, or ip2p"
        )
    index.check_arguments(config.pipeline.arguments)
    check(
        "sampling.compile",
        config.sampling.compile,
        "false with --method pipeline",
        not config.sampling.compile,
    )
    side = config.pipeline.resolution or index.own_side or given
    log.info("%s draws at %d", index.name, side)
    return replace(
        config,
        data=replace(config.data, resolution=side),
        sampling=replace(config.sampling, height=config.sampling.height or given),
    )


def for_checkpoint(sampling: SamplingConfig, stated: Distilled | None) -> SamplingConfig:
    """The settings by which a distilled checkpoint is drawn; those of any other as they are.

    Raises:
        UserError: it was not distilled for them.
    """
    if stated is None:
        return sampling
    if sampling.adapt:
        sampling = adapted(sampling, stated)
    for name in ("interval_txt", "interval_img"):
        value = getattr(sampling, name)
        check(
            f"sampling.{name}", value, "none: a distilled checkpoint is guided at all noise levels", not value
        )
    for text, image in product(sampling.scales_txt, sampling.scales_img):
        stated.check_scales(text, image, ("sampling.scales_txt", "sampling.scales_img"))
    stated.check_steps("sampling.steps", sampling.steps)
    scheduler = stated.scheduler(sampling.scheduler)
    if scheduler != sampling.scheduler:
        log.info("sampling.scheduler: %s, since this checkpoint was distilled into phases", scheduler)
    return replace(sampling, scheduler=scheduler)


def adapted(sampling: SamplingConfig, stated: Distilled) -> SamplingConfig:
    """Settings as a distilled checkpoint can be drawn by them; a line of the log names each change.

    It takes the guidance as its input, at every noise level, and within what it was distilled for; one of
    phases makes a step for each, by DDIM.
    """
    made: dict[str, Any] = {
        # Each once: a pair of scales has one folder.
        "scales_txt": list(dict.fromkeys(within(scale, *stated.text) for scale in sampling.scales_txt)),
        "scales_img": list(dict.fromkeys(within(scale, *stated.image) for scale in sampling.scales_img)),
        "interval_txt": [],
        "interval_img": [],
    }
    if stated.phases:
        made |= {"scheduler": DDIM_TRAILING, "steps": stated.phases, "timesteps": "own"}
    for name, value in made.items():
        if value != getattr(sampling, name):
            log.info("sampling.%s: %s, since this checkpoint was distilled", name, value)
    return replace(sampling, **made)


def within(scale: float, low: float, high: float) -> float:
    """The nearest of the scales from low to high."""
    return min(max(scale, low), high)


def say_unused(yamls: Sequence[Path], method: str) -> None:
    """A line for each section of another method in YAML files, where those of several may stand."""
    for path in yamls:
        sections = [name for name in SECTIONED if name != method and name in (read_yaml(path) or {})]
        if sections:
            log.warning("%s: %s: not used by --method %s", path, ", ".join(sections), method)


def check_words(words: Sequence[str], method: str) -> None:
    """Refuses a setting from the command line that the method would ignore.

    Raises:
        UserError: names it.
    """
    unused = [f"{name}{mark}" for name in SECTIONED if name != method for mark in ".="]
    if method not in GUIDED:
        unused += [f"sampling.{name}=" for name in OF_GUIDED]
    for word in words:
        if word.startswith(tuple(unused)):
            raise UserError(f"{word!r}: --method {method} does not use it; see docs/baselines.md")
