"""What tests of fine-tuning share."""

import json
import os
from collections.abc import Callable
from pathlib import Path

from egogen.files import write_json

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


def zero(folder: Path, stage: int, **more: object) -> list[str]:
    """Flags of DeepSpeed on a CPU."""
    settings = json.loads((REPO / "configs/deepspeed/zero2_cpu.json").read_text())
    settings["zero_optimization"]["stage"] = stage
    if stage == 3:
        settings["zero_optimization"]["stage3_gather_16bit_weights_on_model_save"] = True
    path = folder.parent / f"{folder.name}_zero.json"
    write_json(path, {**settings, **more})
    return ["--deepspeed", str(path)]


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.mkdir, (str(self.marker),)
