"""What the numbers of transformers' training arguments may be; no torch."""

from __future__ import annotations

import math

from egogen.errors import check
from egogen.seeds import MOST_SEED

LARGEST = 10**12  # of any number
NOT_NEGATIVE = (0, LARGEST, "0 or more")
AT_LEAST_1 = (1, 10**9, "at least 1")
ABOVE_0 = (math.ulp(0.0), LARGEST, "above 0")
BELOW_1 = (0, math.nextafter(1.0, 0.0), "0 to less than 1")
SEED = (0, MOST_SEED, f"0 to {MOST_SEED:,}")
RANGES = {
    "learning_rate": (math.ulp(0.0), 1, "above 0, up to 1"),
    "weight_decay": NOT_NEGATIVE,
    "adam_beta1": BELOW_1,
    "adam_beta2": BELOW_1,
    "adam_epsilon": ABOVE_0,
    "max_grad_norm": NOT_NEGATIVE,
    "label_smoothing_factor": BELOW_1,
    "num_train_epochs": ABOVE_0,
    "warmup_steps": NOT_NEGATIVE,
    "per_device_train_batch_size": AT_LEAST_1,
    "per_device_eval_batch_size": AT_LEAST_1,
    "gradient_accumulation_steps": AT_LEAST_1,
    "logging_steps": ABOVE_0,
    "save_steps": ABOVE_0,
    "save_total_limit": AT_LEAST_1,
    "seed": SEED,
    "data_seed": SEED,
    "dataloader_num_workers": (0, 4096, "0 to 4096"),
    "ddp_timeout": AT_LEAST_1,
}


def check_number(name: str, value: int | float) -> None:
    """Raises a `UserError` for a number of transformers' training arguments that is out of its range."""
    low, high, allowed = RANGES.get(name, (-LARGEST, LARGEST, "a finite number of usual size"))
    check(f"--{name}", value, allowed, low <= value <= high)
