"""What a setting may be; `ldm.config.merge` makes a message's words of it."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field

SECTION = ConfigDict(extra="forbid", allow_inf_nan=False, coerce_numbers_to_str=True)
Count = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Scale = Annotated[float, Field(ge=0)]  # of guidance
Scales = Annotated[list[Scale], Field(min_length=1, description="at least one number, none below 0")]
GridSteps = Annotated[int, Field(ge=1, le=999)]  # timestep 1000 is not in the training schedule
