"""What a setting may be; `ldm.config.merge` makes a message's words of it."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import ConfigDict, Field

from egogen.errors import check

SECTION = ConfigDict(extra="forbid", allow_inf_nan=False, coerce_numbers_to_str=True)
Count = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Scale = Annotated[float, Field(ge=0)]  # of guidance
Scales = Annotated[list[Scale], Field(min_length=1, description="at least one number, none below 0")]
GridSteps = Annotated[int, Field(ge=1, le=999)]  # timestep 1000 is not in the training schedule
MOST_STEPS = 1000  # of sampling: as many as there are timesteps


def check_steps(name: str, steps: int) -> None:
    """Raises a `UserError` unless so many sampling steps can be made."""
    check(name, steps, f"at least 1 and at most {MOST_STEPS}", 1 <= steps <= MOST_STEPS)


def check_scale(name: str, scale: float) -> None:
    """Raises a `UserError` for a guidance scale that gives no frame."""
    check(name, scale, "a number of at least 0", math.isfinite(scale) and scale >= 0)
