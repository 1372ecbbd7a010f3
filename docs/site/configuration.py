"""Writes docs/configuration.md from the typed settings; for the Python of the environment ldm."""

from __future__ import annotations

import ast
import inspect
import io
import tokenize
from collections.abc import Iterator
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from ldm.config.distillation import DistillConfig
from ldm.config.merge import ENDS, fields_of, limits, section_of
from ldm.config.sections import GenerateConfig, TrainConfig
from llava.tuning.train_flags import OURS

PAGE = Path(__file__).parents[1] / "configuration.md"
HEAD = """# Settings

Every setting, with its type, default, range and meaning. The page is written by
`python docs/site/configuration.py` from the types that check the settings, so edit those
(`ldm/config/sections.py`, `llava/tuning/train_flags.py`) and not this.

## Stage 2

Keys of the YAML files of `main.py`, `ldm.sample` and `ldm.distill`, and of `key.sub=value` words behind them.
Files merge left to right, words go last; an unknown key is refused, and the nearest one named. `configs/`
holds a file for each published run. What a resumed run does with another value:
[stage 2](stage2.md#training). Ids such as F-S2-01: [fidelity](fidelity.md).
"""
STAGE_1 = """
## Stage 1

Flags of `python -m llava.train`, and keys of its YAML file (`configs/finetune.yaml`); a flag wins over it.
Every flag of transformers' `TrainingArguments` is taken as well (`--help-all` lists them).
"""
COLUMNS = "| key | type | default | range | meaning |\n|---|---|---|---|---|\n"


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for name, kind in sections(TrainConfig, GenerateConfig, DistillConfig).items():
        parts.append(f"\n### `{name}`\n\n{summary(kind)}\n\n{COLUMNS}{''.join(rows(name, kind))}")
    parts.append(STAGE_1)
    for group in OURS:
        parts.append(f"\n### {group.__name__.removesuffix('Arguments')}\n\n{summary(group)}\n\n{COLUMNS}")
        parts += flags(group)
    return "".join(parts)


def sections(*kinds: type) -> dict[str, type]:
    """The sections of configurations and, behind each, those inside it, by their dotted keys."""
    found: dict[str, type] = {}
    for kind in kinds:
        for name, each in fields_of(kind).items():
            if inner := section_of(each):
                found.setdefault(name, inner)
                found |= {f"{name}.{key}": deeper for key, deeper in sections(inner).items()}
    return found


def rows(name: str, kind: type) -> Iterator[str]:
    """A section's table; settings that are sections themselves have their own."""
    said = meanings(kind)
    for key, each in fields_of(kind).items():
        default = "needed" if each.is_required() else shown(each.get_default(call_default_factory=True))
        if section_of(each):
            continue
        ends = {end: getattr(mark, end) for mark in each.metadata for end in ENDS if hasattr(mark, end)}
        choices = get_args(each.annotation) if get_origin(each.annotation) is Literal else ()
        allowed = ", ".join(f"`{one}`" for one in choices) or each.description or limits(ends, False)
        yield row(f"`{name}.{key}`", type_name(each.annotation), default, allowed, said.get(key, ""))


def flags(kind: type) -> Iterator[str]:
    """The table of a group of stage 1's flags."""
    hints = get_type_hints(kind)
    for each in fields(kind):
        choices = get_args(hints[each.name]) if get_origin(hints[each.name]) is Literal else ()
        default = "needed" if each.default is MISSING else shown(each.default)
        allowed = ", ".join(f"`{one}`" for one in choices)
        yield row(f"`--{each.name}`", type_name(hints[each.name]), default, allowed, each.metadata["help"])


def row(*cells: str) -> str:
    """A line of a table."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def summary(kind: type) -> str:
    """The first sentence of a section's docstring."""
    return (kind.__doc__ or "").strip().splitlines()[0]


def shown(value: object) -> str:
    """A default as YAML has it."""
    if value is None or value == "":
        return "none" if value is None else "empty"
    if isinstance(value, (list, tuple)):
        return f"`[{', '.join(shown(each).strip('`') for each in value)}]`"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def type_name(annotation: Any) -> str:  # noqa: ANN401 - a type of any kind
    """A type in words of YAML."""
    words = {
        bool: "true or false",
        int: "whole number",
        float: "number",
        str: "text",
        Path: "path",
        dict: "mapping",
    }
    kinds = [kind for kind in get_args(annotation) if kind is not type(None)]
    origin = get_origin(annotation)
    if origin is Literal:
        return "choice"
    if origin is list:
        inner = kinds[0]
        return f"list: {type_name(get_args(inner)[0] if hasattr(inner, '__metadata__') else inner)}"
    if annotation in words or origin in words:
        return words[annotation if annotation in words else origin]
    return type_name(kinds[0]) if kinds else "section"


def meanings(kind: type) -> dict[str, str]:
    """What the comments beside and above a section's fields say, those of its base's included."""
    said: dict[str, str] = {}
    for each in reversed(kind.__mro__[:-1]):
        source = inspect.getsource(each)
        comments = {
            token.start[0]: token.string.removeprefix("# ")
            for token in tokenize.generate_tokens(io.StringIO(source).readline)
            if token.type == tokenize.COMMENT
        }
        alone = {line for line in comments if source.splitlines()[line - 1].lstrip().startswith("#")}
        for node in ast.parse(source).body[0].body:  # type: ignore[attr-defined]  # a class
            if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
                continue
            first = node.lineno
            while first - 1 in alone:
                first -= 1
            words = [comments[line] for line in range(first, node.end_lineno + 1) if line in comments]
            said[node.target.id] = " ".join(words)
    return said


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
