"""What a distilled UNet states of itself: the scales it was trained for, and its phases. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from egogen.errors import UserError, check, shorten

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

Phases = Literal[1, 2, 4, 8]  # M
DISTILLED = "distilled"  # in single files
IN_CONFIG = "_distilled"  # in the UNet's config.json; diffusers passes over names that begin so
SCALE_WIDTH = 256  # of the embedding of one scale
Limits = Annotated[
    list[Annotated[float, Field(ge=0, allow_inf_nan=False)]], Field(min_length=2, max_length=2)
]


@dataclass(frozen=True, config={"extra": "forbid"})
class Distilled:
    """What a checkpoint was distilled for; it is never guided by more passes.

    `text` and `image`: lowest and highest w_T and w_I, which are the network's input. `phases`: M, the steps
    it is drawn in; None where it follows the teacher's path, and any scheduler draws with it. `baked`:
    whether one pair is part of the weights, and lowest and highest are the same.
    """

    text: Limits
    image: Limits
    phases: Phases | None = None
    baked: bool = False

    def check_scales(
        self,
        text: float,
        image: float,
        names: tuple[str, str] = ("guidance_scale", "image_guidance_scale"),
    ) -> None:
        """Raises a `UserError` for a guidance scale that the checkpoint was not trained for."""
        for name, scale, limits in zip(names, (text, image), (self.text, self.image), strict=True):
            low, high = limits
            allowed = f"{low:g} to {high:g}, for which this checkpoint was distilled"
            check(name, scale, f"{low:g}, which is baked in" if self.baked else allowed, low <= scale <= high)

    def check_steps(self, name: str, steps: int) -> None:
        """Raises a `UserError` for a number of steps that a checkpoint of phases does not make."""
        allowed = f"{self.phases}: this checkpoint was distilled into so many phases, a step each"
        check(name, steps, allowed, self.phases in (None, steps))


def read_distilled(stated: object, place: str) -> Distilled:
    """What a file states, checked.

    Raises:
        UserError: it is no such statement.
    """
    try:
        found = TypeAdapter(Distilled).validate_python(
            dict(stated) if isinstance(stated, Mapping) else stated
        )
    except ValidationError as error:
        fault = error.errors()[0]
        key = ".".join(map(str, (DISTILLED, *fault["loc"])))
        raise UserError(f"{place}: {key}: got {shorten(fault['input'])}; {fault['msg']}") from None
    for name in ("text", "image"):
        low, high = getattr(found, name)
        check(f"{place}: {DISTILLED}.{name}", [low, high], "the lowest scale, then the highest", low <= high)
    return found


def state_distilled(unet: UNet2DConditionModel, stated: Distilled) -> None:
    """Notes what `distilled_of` tells; it is saved with the UNet's configuration."""
    unet.register_to_config(**{IN_CONFIG: asdict(stated)})


def distilled_of(unet: UNet2DConditionModel, place: str = "unet") -> Distilled | None:
    """What a UNet was distilled for; None for one that was not.

    Raises:
        UserError: it takes scales, but nothing says which, or not as ours do.
    """
    stated, width = unet.config.get(IN_CONFIG), unet.config.time_cond_proj_dim
    if width is not None:
        check(f"{place}: time_cond_proj_dim", width, f"{2 * SCALE_WIDTH}", width == 2 * SCALE_WIDTH)
        if stated is None:
            raise UserError(
                f"{place}: takes guidance scales as an input, but does not state those it was trained for "
                f"({IN_CONFIG} in config.json, {DISTILLED} in a single file), as those of ldm.distill do"
            )
    return None if stated is None else read_distilled(stated, place)
