"""What a distillation begins from: the teacher that `model.start` names, and the student's first weights."""

from __future__ import annotations

import logging
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

from diffusers import UNet2DConditionModel

from egogen.errors import UserError, check
from ldm.checkpoints.source import Source, load_parts, open_source, with_sizes
from ldm.config.distillation import DistillConfig
from ldm.config.sections import TrainConfig
from ldm.distilling.distiller import Distiller
from ldm.networks.architecture import Parts
from ldm.networks.distilled import Distilled
from ldm.training.run import Recipe

log = logging.getLogger(__name__)


def load_teacher(config: TrainConfig) -> tuple[TrainConfig, Parts]:
    """Loads the teacher's averaged weights; the settings take over the sizes of its networks.

    Raises:
        UserError: it cannot be a teacher of these scales; see also `load_parts`.
    """
    assert isinstance(config, DistillConfig)
    log.info("load the teacher %s", config.model.start)
    source = open_source(Path(config.model.start))
    if source.distilled:
        check_teacher(source, source.distilled, config.distill.stated)
    model = with_sizes(config.model, source)
    parts = load_parts(source, model.shape, conditioner=model.vllm_features, streams=model.streams)
    return replace(config, model=model), parts


def check_teacher(source: Source, has: Distilled, wanted: Distilled) -> None:
    """Raises a `UserError` unless a distilled checkpoint predicts guided noise for all wanted scales."""
    if has.baked:
        raise UserError(
            f"{source.path}: guidance scales are baked into it; distil from the checkpoint that was baked"
        )
    if has.phases:
        raise UserError(
            f"{source.path}: it jumps over phases, and has no path to follow; the teacher is what it was "
            "distilled from, and this file may be what the student goes on from (distill.student)"
        )
    for name in ("text", "image"):
        (low, high), (first, last) = getattr(has, name), getattr(wanted, name)
        allowed = f"within {low:g} to {high:g}, for which the teacher {source.path} was distilled"
        check(f"distill.{name}_scales", [first, last], allowed, low <= first <= last <= high)


def begin(parts: Parts, config: TrainConfig) -> Distiller:
    """The module: the student's UNet beside the teacher's."""
    assert isinstance(config, DistillConfig)
    return Distiller(parts, first_student(parts, config), config)


def first_student(teacher: Parts, config: DistillConfig) -> UNet2DConditionModel:
    """The student's first weights: the teacher's, or those of another student.

    Raises:
        UserError: that one is no student of such a teacher.
    """
    if not config.distill.student:
        return deepcopy(teacher.unet)
    log.info("the student goes on from %s", config.distill.student)
    source = open_source(Path(config.distill.student))
    if source.distilled and source.distilled.baked:
        raise UserError(
            f"{source.path}: guidance scales are baked into it; distill.student takes the one that was baked"
        )
    if source.distilled:
        check_student(source, source.distilled, config.distill.stated)
    student: UNet2DConditionModel = load_parts(source, config.model.shape, conditioner=False).unet
    return student


def check_student(source: Source, has: Distilled, wanted: Distilled) -> None:
    """Raises a `UserError` unless a student can go on: to no more phases, for scales that it knows."""
    if has.phases and (not wanted.phases or wanted.phases > has.phases):
        raise UserError(
            f"distill.student: {source.path} jumps over {has.phases} phases; expected "
            f"distill.method=consistency with distill.phases of at most {has.phases}"
        )
    for name in ("text", "image"):
        (low, high), (first, last) = getattr(has, name), getattr(wanted, name)
        allowed = f"within {low:g} to {high:g}, for which distill.student was distilled ({source.path})"
        check(f"distill.{name}_scales", [first, last], allowed, low <= first <= last <= high)


DISTILLATION = Recipe(load_teacher, begin)
