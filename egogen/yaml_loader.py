"""How YAML is read: plain values as people mean them, each key once, no file that unfolds without end."""

from __future__ import annotations

import re
from collections.abc import Hashable
from itertools import chain
from pathlib import Path
from typing import Any

import yaml

from egogen.errors import UserError

MOST_VALUES = 100_000  # of a YAML file
# As YAML 1.2 has them, and `1e-4`; in 1.1 `on` and `no` are true and false, 010 is 8, and 1:30 is 90.
# By kind: the form, and the characters that it may begin with.
OWN_FORMS = {
    "bool": ("true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": (r"[-+]?(?:0|[1-9][\d_]*)|0x[\da-fA-F]+", "-+0123456789"),
    "float": (
        r"[-+]?(?:\d[\d_]*\.?|(?:\d[\d_]*)?\.\d[\d_]*)[eE][-+]?\d+|[-+]?(?:\d[\d_]*\.[\d_]*|\.\d[\d_]*)"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+.0123456789",
    ),
    "timestamp": ("(?!)", "0123456789"),  # none
}


class YamlLoader(yaml.SafeLoader):
    """YAML as people mean it: a key is given once; `on`, `010` and dates are texts."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - as in the class above
        first: [(tag, form) for tag, form in forms if tag.rpartition(":")[2] not in OWN_FORMS]
        for first, forms in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """An object; raises a `UserError` if a key occurs twice."""
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if len(set(keys)) != len(keys):
            raise repeated(Path(self.name), keys)
        return super().construct_mapping(node, deep)


for kind, (form, firsts) in OWN_FORMS.items():
    YamlLoader.add_implicit_resolver(f"tag:yaml.org,2002:{kind}", re.compile(f"(?:{form})$"), list(firsts))


def weigh(node: yaml.Node, source: str, known: dict[int, int]) -> int:
    """The values at a place of YAML, those that an alias stands for each time: a few lines can name billions.

    Raises:
        UserError: there are too many, or a value holds itself.
    """
    if id(node) not in known:
        known[id(node)] = MOST_VALUES  # as long as it is open: whoever meets it again is inside of it
        inner = node.value if isinstance(node, yaml.CollectionNode) else []
        children = chain.from_iterable(inner) if isinstance(node, yaml.MappingNode) else inner
        known[id(node)] = 1 + sum(weigh(child, source, known) for child in children)
    if known[id(node)] >= MOST_VALUES:
        raise UserError(
            f"{source}: holds more than {MOST_VALUES} values, with those that aliases (*name) stand for"
        )
    return known[id(node)]


def repeated(where: Path | str, keys: list[str]) -> UserError:
    """Names the first key that occurs twice."""
    twice = next(key for place, key in enumerate(keys) if key in keys[:place])
    return UserError(f"{where}: the key {twice!r} occurs twice in one object; each may occur once")
