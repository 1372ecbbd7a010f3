"""What tests of fine-tuning share."""

import json
import os
from collections.abc import Callable
from pathlib import Path

REPO = Path(__file__).parents[2]


def flags(data: Path, tiny: Path, out: Path, *more: str) -> list[str]:
    return [
        *("--model_name_or_path", str(tiny), "--data_path", str(data / "records.json")),
        *("--image_folder", str(data), "--output_dir", str(out), "--use_cpu", "True", "--bf16", "False"),
        *("--per_device_train_batch_size", "2", "--learning_rate", "1e-3", "--logging_steps", "1", *more),
    ]


def losses(folder: Path) -> list[float]:
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return [entry["loss"] for entry in history if "loss" in entry]


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.mkdir, (str(self.marker),)
