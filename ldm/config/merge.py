"""YAML files and `key=value` words into typed sections: every unknown key and every bad value is named."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from egogen.annotations import check_object
from egogen.errors import UserError, check, reason, shorten
from egogen.files import parse_yaml, read_yaml
from egogen.layout import expanded
from egogen.shipped import find_config
from egogen.told_command import secret_in
from ldm.config.ranges import LARGEST

Config = TypeVar("Config")
LONGEST = 4096  # bits of a number that is told
ENDS = ("ge", "gt", "le", "lt")
WORD = re.compile(r"[A-Za-z_][\w.]*=")  # key.sub=value
KEY = re.compile(r"[a-z]\w*(\.(?!ya?ml\b)\w+)+(:|$)")  # key.sub, as people write it for others' programs
# What is allowed, by the beginning of pydantic's name for the fault.
OF_TYPES = {
    "int": "a whole number", "float": "a number", "finite": "a finite number", "bool": "true or false",
    "string": "a text", "list": "a list", "dict": "values by name", "dataclass": "settings by name",
}  # fmt: skip


def split_words(words: Sequence[str]) -> tuple[list[Path], list[str]]:
    """Tells YAML files from `key.sub=value` words, which may follow them on a command line.

    Raises:
        UserError: a word is a key without `=` behind it.
    """
    settings = [word for word in words if WORD.match(word)]
    for word in words:
        if word not in settings and KEY.match(word) and not expanded(word).exists():
            raise UserError(
                f"{shorten(word)}: neither a YAML file nor key=value; is the = missing behind the key?"
            )
    return [find_config(expanded(word)) for word in words if word not in settings], settings


def flag_word(flag: str, key: str, value: object, words: Sequence[str]) -> str:
    """A flag as the `key.sub=value` word that it stands for.

    Raises:
        UserError: one of the words says something else of the same setting.
    """
    # A path may have signs that YAML reads as its own.
    made = f"{key}={json.dumps(f'{value}', ensure_ascii=False) if isinstance(value, Path) else value}"
    same = [word for word in words if word.startswith(f"{key}=")]
    if other := next((word for word in same if parsed(word) != parsed(made)), None):
        raise UserError(f"{flag} {value}, {shorten(other)}: are one setting; give one of them")
    return made


def load_config(
    kind: type[Config], files: Sequence[Path], overrides: Sequence[str] = (), start: Config | None = None
) -> Config:
    """Merges YAML files left to right, then `key.sub=value` words, over the defaults, or over `start`.

    Raises:
        UserError: a missing file, broken YAML, an unknown key (with the nearest valid one) or a bad value.
    """
    defaults = asdict(kind() if start is None else start)  # type: ignore[call-overload]
    read = [(f"{path}", read_yaml(path)) for path in files]
    layers = [(path, {} if layer is None else layer) for path, layer in read]
    layers += [(shorten(word), parsed(word)) for word in overrides]
    for source, layer in layers:
        for key in unknown_keys(kind, check_object(layer, source, "settings by name")):
            near = difflib.get_close_matches(key, list(known_keys(kind)), n=1, cutoff=0.4)
            raise UserError(f"{source}: unknown key {key!r}{f'; did you mean {near[0]!r}?' if near else ''}")
    place = ", ".join(map(str, files)) or "configuration"
    tree = resolved([defaults, *(layer for _, layer in layers)], place)
    return validated(kind, fitted(defaults, tree))


def resolved(layers: Sequence[object], place: str) -> Any:  # noqa: ANN401 - plain values
    """Layers as one tree of plain values, their references (`${data.root}`, `${oc.env:NAME,else}`) filled in.

    Raises:
        UserError: they do not fit, or bring a key of the environment into what is kept of a run.
    """
    try:
        tree = OmegaConf.to_container(OmegaConf.merge(*layers), resolve=True)  # type: ignore[arg-type]  # mappings
    except (OmegaConfBaseException, RecursionError, TypeError) as error:  # that: a mapping for a list
        what = "nested too deeply" if isinstance(error, RecursionError) else reason(error)[:300]
        raise UserError(f"{place}: {what}") from None
    if name := secret_in(f"{writable(tree)}"):
        raise UserError(f"{place}: a setting holds the value of {name}; settings are recorded, keys are not")
    return tree


def parsed(word: str) -> object:
    """A `key.sub=value` word as a layer of settings.

    Raises:
        UserError: it is none, or its value cannot be read.
    """
    if "=" not in word.lstrip("="):
        hint = "such as data.resolution=256; YAML files go before such words"
        raise UserError(f"{shorten(word)}: expected key=value, {hint}")
    key, _, text = word.partition("=")
    value = parse_yaml(text, shorten(word))
    for name in reversed(key.split(".")):
        value = {name: value}
    return value


def validated(kind: type[Config], tree: object) -> Config:
    """Sections of plain values.

    Raises:
        UserError: names the first bad key, its value and what is allowed.
    """
    try:
        return adapter(kind).validate_python(writable(tree))  # type: ignore[arg-type]  # a type is hashable
    except ValidationError as error:
        raise user_error(kind, error) from None


class TooLong:
    """Stands for a whole number that Python does not write out, as pydantic would in its messages."""

    def __repr__(self) -> str:
        return "a number of thousands of digits"


def writable(value: object) -> object:
    """Plain values without such numbers."""
    if isinstance(value, Mapping):
        return {name: writable(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [writable(inner) for inner in value]
    return TooLong() if isinstance(value, int) and value.bit_length() > LONGEST else value


@cache
def adapter(kind: type[Config]) -> TypeAdapter:  # type: ignore[type-arg]  # beartype knows no more of it
    """Pydantic's reader of a section, made once."""
    return TypeAdapter(kind)


def user_error(kind: type, error: ValidationError) -> UserError:
    """The first fault that pydantic has found in the values of a section, in one line."""
    fault = error.errors()[0]
    if fault["type"] == "value_error":  # of a section's own `__post_init__`, which has said it all
        return UserError(f"{fault['ctx']['error']}")
    key = ".".join(map(str, fault["loc"]))
    return UserError(f"{key}: got {shorten(fault['input'])}, allowed: {allowed(kind, fault)}")


def allowed(kind: type, fault: Mapping[str, Any]) -> str:
    """What a setting may be, in words, from its type and range; the fault is one of pydantic's."""
    of_type = next((words for name, words in OF_TYPES.items() if fault["type"].startswith(name)), "")
    field, ends = FieldInfo(), {}
    for name in fault["loc"]:
        if name not in fields_of(kind):  # an entry of a list or of a mapping
            unknown = isinstance(name, str) and not of_type and not field.annotation
            ends = {end: value for end, value in fault.get("ctx", {}).items() if end in ENDS}
            field = FieldInfo(description=field.description)
            if unknown or fault["type"] == "unexpected_keyword_argument":
                return "no such key"
            break
        field = fields_of(kind)[name]
        kind = section_of(field) or kind
        ends = {
            end: getattr(mark, end) for mark in field.metadata for end in ENDS if hasattr(mark, end)
        }  # fmt: skip
    if get_origin(field.annotation) is Literal:
        return ", ".join(map(str, get_args(field.annotation)))
    too_much = fault["type"].startswith("less_than")
    return ", ".join(filter(None, (of_type, field.description or limits(ends, too_much))))


def limits(ends: Mapping[str, int | float], too_much: bool) -> str:
    """The range of a number, in words; that there is a largest one is told to those who have passed it."""
    known = {
        end: f"{value:,}" if isinstance(value, int) else f"{value:g}"
        for end, value in ends.items()
        if end in ENDS and (abs(value) < LARGEST or too_much)
    }
    match known:
        case {"ge": low, "le": high}:
            return f"{low} to {high}"
        case {"ge": low, "lt": high}:
            return f"{low} to less than {high}"
        case {"gt": low, "le": high}:
            return f"more than {low}, up to {high}"
        case {"ge": "0"}:
            return "0 or more"
        case {"ge": low}:
            return f"at least {low}"
        case {"gt": low}:
            return f"more than {low}"
        case {"le": high}:
            return f"at most {high}"
        case {"lt": high}:
            return f"less than {high}"
    return ""


def fitted(default: object, value: object) -> object:
    """Values as their settings take them: `16` and nothing may be texts."""
    if isinstance(default, Mapping) and isinstance(value, Mapping):
        return {name: fitted(default.get(name), inner) for name, inner in value.items()}
    if isinstance(default, str) and not isinstance(value, Mapping | list):
        return "" if value is None else value if isinstance(value, str) else shorten(value)
    return value


def unknown_keys(kind: type, layer: Mapping[str, object], place: str = "") -> Iterator[str]:
    """Dotted keys of a layer that no section has.

    Raises:
        UserError: a list stands in the place of a section, or of values by name.
    """
    for name, value in layer.items():
        if name not in fields_of(kind):
            yield f"{place}{name}"
        elif section := section_of(fields_of(kind)[name]):
            several = get_origin(fields_of(kind)[name].annotation) is list
            check(f"{place}{name}", value, "settings by name", several or not isinstance(value, list))
            for inner in value if isinstance(value, list) else [value]:
                if isinstance(inner, Mapping):
                    yield from unknown_keys(section, inner, f"{place}{name}.")
        elif get_origin(fields_of(kind)[name].annotation) is dict:
            check(f"{place}{name}", value, "values by name", not isinstance(value, list))


def known_keys(kind: type, place: str = "") -> Iterator[str]:
    """All dotted keys, sections included."""
    for name, field in fields_of(kind).items():
        yield f"{place}{name}"
        if section := section_of(field):
            yield from known_keys(section, f"{place}{name}.")


def section_of(field: FieldInfo) -> type | None:
    """The section that a field holds, or may hold; None for a value or a list."""
    kinds = (field.annotation, *get_args(field.annotation))
    found = [kind for kind in kinds if isinstance(kind, type) and fields_of(kind)]
    return found[0] if found else None


def fields_of(kind: type) -> dict[str, FieldInfo]:
    """Fields of a section; none of anything else."""
    return getattr(kind, "__pydantic_fields__", {})
