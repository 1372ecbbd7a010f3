"""What a distilled UNet states of itself: the scales it was trained for, and its phases. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from egogen.errors import UserError, check, shorten
from ldm.diffusion.choices import DDIM_TRAILING, PUBLISHED

Phases = Literal[1, 2, 4, 8]  # M
DISTILLED = "distilled"  # in single files
GUIDANCE_IN_CONFIG = "_guidance"  # s_T and s_I, there too
IN_CONFIG = "_distilled"  # in the UNet's config.json; diffusers passes over names that begin so
SCALE_WIDTH = 256  # of the embedding of one scale
UNBAKED = (
    "a distilled UNet takes the guidance scales as an input, which other programs do not give; bake a pair "
    "into its weights by --bake W_T W_I"
)
Scale = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Limits = Annotated[list[Scale], Field(min_length=2, max_length=2)]


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

    def scheduler(self, asked: str) -> str:
        """The scheduler that draws: with phases DDIM from the last timestep down, else as asked.

        Raises:
            UserError: another is asked for than the phases need, and not just the default.
        """
        if not self.phases:
            return asked
        allowed = f"{DDIM_TRAILING}, by whose steps this checkpoint jumps from phase to phase"
        check("scheduler", asked, allowed, asked in (PUBLISHED, "ddim", DDIM_TRAILING))
        return DDIM_TRAILING


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
