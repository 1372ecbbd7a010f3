"""Runs `llava.train` and writes the rate that each update uses to `rates.json` in the current folder."""

import json
import sys
from typing import Any

from transformers import TrainerCallback

from llava import train
from llava.tuning import run

USED: list[float] = []


class Rates(TrainerCallback):
    """Notes the rate just before each update."""

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # DeepSpeed updates inside its own step: the rate that is set when a step begins is the one it takes.
        del args, state, control
        USED.append(kwargs["optimizer"].param_groups[0]["lr"])


class WithRates(run.Finetune):
    """The trainer with that callback."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "callbacks": [*kwargs["callbacks"], Rates()]})


run.Finetune = WithRates  # type: ignore[misc]
train.main(sys.argv[1:])
with open("rates.json", "w") as file:  # noqa: PTH123 - the current folder
    json.dump(USED, file)
