"""The trainer of fine-tuning: transformers' own; its folders load with `llava.model.load`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed
from peft import PeftModel, get_peft_model_state_dict
from torch import Tensor, nn
from torch.optim import Optimizer
from transformers import (
    PreTrainedTokenizerBase,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from egogen.disk import require_space, writing
from egogen.errors import UserError
from egogen.file_sets import atomic_files
from egogen.files import write_json
from egogen.progress import Progress
from llava.checkpoints.adapter_folder import adapter_file
from llava.checkpoints.resharding import clear
from llava.checkpoints.resume import COMPLETE
from llava.checkpoints.tokenizer import save_tokenizer
from llava.checkpoints.vllm_card import write_card
from llava.checkpoints.weights import examples, read_file_shapes
from llava.model import Llava
from llava.tuning.limits import deepspeed_settings


class Finetune(Trainer):
    """Transformers' Trainer; every folder it saves can be loaded by `llava.model.load`."""

    def __init__(
        self,
        *,
        tokenizer: PreTrainedTokenizerBase,
        image_processor: CLIPImageProcessorPil,
        **settings: object,
    ) -> None:
        super().__init__(**settings)  # type: ignore[arg-type]
        # A mean over each batch, then one over the batches of an update (published): so it does not depend on
        # how many processes share them. True asks for one mean over all its tokens, which does not either.
        self.model_accepts_loss_kwargs = self.args.average_tokens_across_devices
        self.tokenizer = tokenizer
        self.image_processor = image_processor
        if self.pop_callback(ProgressCallback) is not None:  # there unless --disable_tqdm
            self.add_callback(Shown())

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        # Of adapters, transformers hands on no word of what did not fit.
        if isinstance(self.model, PeftModel):
            found = read_file_shapes(adapter_file(Path(resume_from_checkpoint)))
            wanted = get_peft_model_state_dict(self.model)
            check_fit(wanted.keys() - found, found.keys() - wanted)

    def _issue_warnings_after_load(self, load_result: Any) -> None:  # noqa: ANN401 - as torch returns it
        """Makes an error of what transformers only warns of: weights that did not fit."""
        check_fit(load_result.missing_keys, load_result.unexpected_keys)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:  # noqa: ANN401 - none of ours
        """Asks for the room first: what a full disk cuts off cannot be gone on from."""
        self.require_room(Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}")
        super()._save_checkpoint(model, trial)

    def require_room(self, folder: Path) -> None:
        """Sees to it that a checkpoint fits on a folder's disk.

        Raises:
            UserError: it does not.
        """
        if self.args.should_save:
            require_space(folder, sum(self.saved_bytes()), "a checkpoint", spare=0)

    def saved_bytes(self) -> tuple[int, int]:
        """Bytes of a checkpoint at least: of weights, or adapters alone, and of the optimiser's states.

        Those are AdamW's two moments of all that learns (others may keep less) and, by DeepSpeed, of
        weights in 16 bits a copy in 32.
        """
        assert self.model is not None
        adapted = isinstance(self.model, PeftModel)
        moments = 8 if self.args.optim in ("adamw_torch", "adamw_torch_fused") else 0
        weights = states = 0
        for value in self.model.parameters():
            number = getattr(value, "ds_numel", value.numel())  # ZeRO-3 shares weights out
            weights += number * value.element_size() * (value.requires_grad or not adapted)
            copy = bool(self.args.deepspeed) and value.element_size() < 4
            states += number * (moments + 4 * copy) * value.requires_grad
        return weights, states

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        name = f"global_step{self.state.global_step}" if self.args.deepspeed else "optimizer.pt"
        with writing(Path(output_dir) / name, self.saved_bytes()[1]):
            super()._save_optimizer_and_scheduler(output_dir)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        target = Path(str(output_dir or self.args.output_dir))
        if not self.args.should_save:  # takes part, and writes nothing
            super()._save(str(target), state_dict)
            return
        name = "adapter_model.safetensors" if isinstance(self.model, PeftModel) else "model.safetensors"
        with writing(target / name, self.saved_bytes()[0]), atomic_files(target) as folder:
            super()._save(str(folder), state_dict)
            save_tokenizer(self.tokenizer, folder)
            self.image_processor.save_pretrained(folder)
            # In place of peft's, which names folders of this machine.
            write_card(folder, cast("Llava", self.model).config)


class Shown(TrainerCallback):
    """Shows how far the updates are, and what was logged last."""

    def __init__(self) -> None:
        self.bar: Progress | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """Begins at the update that the run begins at."""
        del args, control
        hidden = not state.is_world_process_zero
        self.bar = Progress(
            desc="fine-tune", unit="update", total=state.max_steps, initial=state.global_step, disable=hidden
        )

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """Moves on."""
        del args, control
        assert self.bar is not None
        self.bar.update(state.global_step - self.bar.n)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, object] | None = None,
        **_: object,
    ) -> None:
        """Takes over what is logged."""
        del args, state, control
        if self.bar is not None and logs:
            shown: dict[str, object] = {
                name: logs[name] for name in ("loss", "learning_rate", "grad_norm") if name in logs
            }
            self.bar.set_postfix(shown, refresh=False)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """Ends the bar."""
        del args, state, control
        assert self.bar is not None
        self.bar.close()


def check_fit(missing: Iterable[str], unexpected: Iterable[str]) -> None:
    """Checks that a checkpoint that training goes on from held all weights, and no others.

    Raises:
        UserError: it did not.
    """
    if any([*missing, *unexpected]):
        raise UserError(
            f"the checkpoint to go on from does not fit the model: missing {examples(missing) or 'nothing'}, "
            f"unexpected {examples(unexpected) or 'nothing'}; delete it to go on from the one before it"
        )


class MarkComplete(TrainerCallback):
    """Marks a checkpoint when all processes have written their part; others are not resumed from."""

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """Called after a checkpoint was written."""
        del control
        wait_for_all()
        if state.is_world_process_zero:
            checkpoint = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
            write_json(checkpoint / COMPLETE, {"step": state.global_step, "processes": args.world_size})


class AfterResharding(TrainerCallback):
    """Tidies up where training goes on with another number of processes."""

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        optimizer: Optimizer | None = None,
        **_: object,
    ) -> None:
        """Called once weights, optimiser and schedule are in place: deletes what they were read from."""
        del control
        assert optimizer is not None
        # DeepSpeed gives one tensor to all groups under ZeRO-3, which each of them would count on.
        for moments in optimizer.state.values():
            if isinstance(step := moments.get("step"), Tensor):
                moments["step"] = step.clone()
        wait_for_all()
        if state.is_world_process_zero:
            clear(Path(str(args.output_dir)))


class FirstRate(TrainerCallback):
    """Takes the whole rate in the first update where DeepSpeed's file names a schedule (published; F-S1-03).

    DeepSpeed's schedules began after the first update when LEGO was trained; today's begin before it.
    """

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        optimizer: Optimizer | None = None,
        **_: object,
    ) -> None:
        """Called once the schedule has set its first rate."""
        del control
        assert optimizer is not None
        if state.global_step == 0 and "scheduler" in (deepspeed_settings(args) or {}):
            for group in optimizer.param_groups:
                group["lr"] = args.learning_rate


def wait_for_all() -> None:
    """Waits until every process is here."""
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
