"""The settings of a drawing: YAML files and words, as far as the method uses them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from egogen.errors import UserError
from ldm.config.merge import load_config, split_words
from ldm.config.sections import GenerateConfig
from ldm.sampling.method_names import GUIDED, OF_GUIDED, PLAIN


def read_config(words: Sequence[str], method: str, ckpt: Path | None) -> GenerateConfig:
    """The configuration: files, then words; stage 1's features serve LEGO alone."""
    yamls, settings = split_words(words)
    check_words(settings, method)
    config = load_config(GenerateConfig, yamls, settings)
    model = replace(config.model, vllm_features=config.model.vllm_features and method == "lego")
    if model.vllm_features and ckpt:  # features are as wide as the checkpoint says
        from ldm.checkpoints.source import open_source, with_sizes

        model = with_sizes(model, open_source(ckpt))
    return replace(config, model=model)


def check_words(words: Sequence[str], method: str) -> None:
    """Refuses a setting from the command line that the method would ignore.

    Raises:
        UserError: names it.
    """
    unused = [f"{name}{mark}" for name in PLAIN if name != method for mark in ".="]
    if method not in GUIDED:
        unused += [f"sampling.{name}=" for name in OF_GUIDED]
    for word in words:
        if word.startswith(tuple(unused)):
            raise UserError(f"{word!r}: --method {method} does not use it; see docs/baselines.md")
