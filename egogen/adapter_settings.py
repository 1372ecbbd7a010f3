"""Which settings of peft's adapters (adapter_config.json) are understood: one rule for both stages."""

from __future__ import annotations

from collections.abc import Collection, Mapping

# What these must be where they are said.
DEFAULTS: Mapping[str, object] = {"peft_type": "LORA", "bias": "none"}
# How adapters began. Others (PiSSA, OLoRA, LoftQ, CorDA ...) changed the base that they belong to.
STARTS = (None, True, False, "gaussian", "orthogonal", "eva")
START = "init_lora_weights"
# Keys that say nothing of what adapters do, or that both stages read; any other key must be off.
KNOWN = {
    "auto_mapping", "base_model_name_or_path", "eva_config", "exclude_modules", "inference_mode", START,
    "layers_pattern", "layers_to_transform", "lora_alpha", "lora_dropout", "megatron_core",
    "modules_to_save", "peft_version", "qalora_group_size", "r", "revision", "runtime_config",
    "target_modules", "task_type", "use_rslora",
}  # fmt: skip


def settings_fault(settings: Mapping[str, object], read: Collection[str] = ()) -> str | None:
    """What a reader of plain adapters would get wrong: the first such setting, in words; None if nothing.

    Args:
        settings: by peft's names.
        read: further settings that the reader understands.
    """
    for key, value in settings.items():
        good = value == DEFAULTS[key] if key in DEFAULTS else key in KNOWN or key in read or not value
        if not good or (key == START and value not in STARTS):
            return (
                f"{key} is {value!r}, which is not understood here; expected plain adapters (LoRA). Merge "
                "them by the program that trained them"
            )
    return None
