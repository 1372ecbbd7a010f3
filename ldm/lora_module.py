"""`LoraDiffusion`: stage 2's training step where adapters of the UNet learn, and all of the conditioner."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from egogen.errors import UserError
from ldm.checkpoints.lora_run import read_stated, statement
from ldm.checkpoints.safe_reading import LORA
from ldm.checkpoints.single_file import check_keys, copy_tensor
from ldm.config.sections import TrainConfig
from ldm.module import LatentDiffusion
from ldm.networks.architecture import Parts
from ldm.networks.lora_layers import NAME, add_adapters

CONDITIONER = "conditioner."


class LoraDiffusion(LatentDiffusion):
    """The same loss; a checkpoint holds what is trained, and names what it was trained on.

    Args:
        parts: the networks that `model.start` names; the UNet is given adapters.
        config: the run's settings, with `model.lora`.
    """

    def __init__(self, parts: Parts, config: TrainConfig) -> None:
        settings = config.model.lora
        assert settings is not None
        add_adapters(parts.unet, settings.rank, settings.alpha, settings.targets)
        super().__init__(parts, config)
        self.statement = statement(settings, Path(config.model.start))

    def stored_names(self) -> dict[str, str]:
        """Adapters by diffusers' names, the conditioner by its published ones."""
        own = self.state_dict()
        adapters = {name: name.replace(f".{NAME}.", ".") for name in own if f".{NAME}." in name}
        return adapters | {
            name: name.removeprefix(CONDITIONER) for name in own if name.startswith(CONDITIONER)
        }

    def stored(self) -> dict[str, Tensor]:
        """What is trained, and the conditioner in any case."""
        own = self.state_dict()
        return {name: own[key].detach().cpu().contiguous() for key, name in self.stored_names().items()}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """States beside the weights what they are adapters of."""
        super().on_save_checkpoint(checkpoint)
        checkpoint[LORA] = self.statement

    def restore(self, state: Mapping[str, Tensor], path: Path) -> None:
        """Takes over what `stored` gave, strictly."""
        own, names = self.state_dict(), self.stored_names()
        check_keys(state, names, False, path)
        for key, name in names.items():
            copy_tensor(own[key], state[name], name, path)

    def check_base(self, checkpoint: Mapping[str, Any]) -> None:
        """Raises a `UserError` unless the checkpoint to resume is of adapters of the same base."""
        path = Path("checkpoint to resume")
        if LORA not in checkpoint:
            raise UserError(f"{path}: holds whole networks, not adapters; start from it by model.start")
        stated = read_stated(checkpoint, path)
        if stated.sha256 != self.statement["sha256"]:
            raise UserError(
                f"model.start: {self.config.model.start} is not what the run to resume was begun with, "
                f"{stated.base}; adapters belong to one checkpoint: set it back"
            )
