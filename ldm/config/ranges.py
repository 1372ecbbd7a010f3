"""What a setting may be; `ldm.config.merge` makes a message's words of it."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from egogen.layout import expanded
from egogen.seeds import MOST_SEED
from ldm.diffusion.choices import MOST_SCALE, TRAINING_STEPS

SECTION = ConfigDict(extra="forbid", allow_inf_nan=False, coerce_numbers_to_str=True)
# No setting means more; float32, array sizes and the clock hold it.
LARGEST = 10**9


def no_word(value: object) -> object:
    """Refuses true and false, which Python takes for 1 and 0."""
    if isinstance(value, bool):
        raise PydanticCustomError("float_type", "not a number")
    return value


def not_zero(value: int) -> int:
    """Refuses a limit of nothing."""
    if not value:
        raise PydanticCustomError("limit", "no limit")
    return value


def path_text(text: str) -> str:
    """A path as it was written, but for `~`; an empty one stands for none."""
    made = expanded(text)
    return f"{made}" if text.startswith("~") else text


NUMBER = BeforeValidator(no_word)
Count = Annotated[int, NUMBER, Field(ge=1, le=LARGEST)]
Natural = Annotated[int, NUMBER, Field(ge=0, le=LARGEST)]
Few = Annotated[int, NUMBER, Field(ge=0, le=4096)]  # threads, processes, places: the machine must have them
Limit = Annotated[
    int,
    NUMBER,
    AfterValidator(not_zero),
    Field(ge=-1, le=LARGEST, description="at least 1, or -1 for no limit"),
]
Seed = Annotated[int, NUMBER, Field(ge=0, le=MOST_SEED)]
Share = Annotated[float, NUMBER, Field(ge=0, le=1)]
Below1 = Annotated[float, NUMBER, Field(ge=0, lt=1)]
Number = Annotated[float, NUMBER, Field(ge=-LARGEST, le=LARGEST)]
NotNegative = Annotated[float, NUMBER, Field(ge=0, le=LARGEST)]
Positive = Annotated[float, NUMBER, Field(gt=0, le=LARGEST)]
Scale = Annotated[float, NUMBER, Field(ge=0, le=MOST_SCALE)]  # of guidance
Scales = Annotated[list[Scale], Field(min_length=1, description="at least one number, none below 0")]
NoiseLevels = Annotated[
    list[NotNegative],
    Field(max_length=2, description="two noise levels, low and high, 0 <= low < high; or [] for all"),
]
Steps = Annotated[int, NUMBER, Field(ge=1, le=TRAINING_STEPS)]  # as many timesteps as there are in training
GridSteps = Annotated[
    int, NUMBER, Field(ge=1, le=TRAINING_STEPS - 1)
]  # the last timestep is not in the training schedule
PathText = Annotated[str, AfterValidator(path_text)]
