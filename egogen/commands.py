"""The commands: what `python -m egogen|llava|ldm` lists, and what `lego NAME` runs."""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from egogen import cli

MAIN = "__main__"


class Command(NamedTuple):
    """A command: its name behind `lego`, and the module whose `main` it is."""

    name: str
    module: str

    @property
    def typed(self) -> str:
        """What runs it in a checkout."""
        return cli.typed(self.module)

    @property
    def meaning(self) -> str:
        """The first sentence of what it says of itself."""
        return first_line(self.module)


COMMANDS = (
    Command("prepare", "egogen.prepare"),
    Command("validate", "egogen.validate"),
    Command("stats", "egogen.stats"),
    Command("features", "egogen.features"),
    Command("pack", "egogen.pack"),
    Command("download", "egogen.download"),
    Command("publish", "egogen.publish"),
    Command("toy", "egogen.toy"),
    Command("paths", "egogen.paths"),
    Command("assets", "egogen.assets"),
    Command("status", "egogen.status"),
    Command("ray-job", "egogen.ray_job"),
    Command("curate", "llava.curate"),
    Command("finetune", "llava.train"),
    Command("describe", "llava.describe"),
    Command("serve-llava", "llava.serve"),
    Command("merge", "llava.merge"),
    Command("convert-llava", "llava.convert"),
    Command("toy-llava", "llava.toy"),
    Command("ship-llava", "llava.toy.ship"),
    Command("train", "ldm.train"),
    Command("distill", "ldm.distill"),
    Command("sample", "ldm.sample"),
    Command("edit", "ldm.edit"),
    Command("page", "ldm.page"),
    Command("evaluate", "ldm.evaluate"),
    Command("report", "ldm.report"),
    Command("study", "ldm.study"),
    Command("reproduce", "ldm.reproduce"),
    Command("claims", "ldm.report.claims"),
    Command("passes", "ldm.report.passes"),
    Command("pool", "ldm.report.pool"),
    Command("over-steps", "ldm.report.over_steps"),
    Command("convert", "ldm.convert"),
    Command("device", "ldm.networks.devices"),
    Command("toy-sd", "ldm.toy"),
    Command("toy-editor", "ldm.toy.editor"),
    Command("toy-classifier", "ldm.toy.classifier"),
    Command("ship-networks", "ldm.toy.ship"),
)


def module_of(name: str) -> str:
    """The module that `python -m` runs for a name."""
    spec = find_spec(name)
    is_package = spec is not None and spec.submodule_search_locations is not None
    return f"{name}.{MAIN}" if is_package else name


@cache
def docstring(module: str) -> str:
    """What a module says of itself; it is read and not imported: no library is needed."""
    spec = find_spec(module_of(module))
    assert spec is not None
    assert spec.origin is not None
    return ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))) or ""


def first_line(module: str) -> str:
    """The first line of a module's docstring."""
    return docstring(module).splitlines()[0]


def overview(package: str, names: Callable[[Command], str]) -> str:
    """The environment of a package and its commands, a line each."""
    mine = {names(each): each for each in COMMANDS if each.module.split(".")[0] == package}
    width = max(map(len, mine))
    needed = cli.ENVIRONMENTS.get(package)
    head = f"{package}, in {f'the environment {needed!r}' if needed else 'either environment'}:"
    return "\n".join([head, *(f"  {name:{width}}  {each.meaning}" for name, each in mine.items())]) + "\n"


def show(package: str) -> None:
    """`python -m` of a package: its commands."""
    cli.parser(f"python -m {package}", f"Lists the commands of {package}.").parse_args()
    sys.stdout.write(overview(package, lambda each: each.typed) + "Each tells more with --help.\n")


def main() -> None:
    """`lego NAME ...` runs a command; without a name it lists them."""
    lists = [overview(package, lambda each: each.name) for package in ("egogen", *cli.ENVIRONMENTS)]
    made = argparse.ArgumentParser(
        prog="lego",
        usage="lego NAME ...",
        description="Runs a command of LEGO; lego NAME --help tells more.\n\n" + "\n".join(lists),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = {each.name: each.module for each in COMMANDS}
    made.add_argument("name", choices=names, metavar="NAME", help=argparse.SUPPRESS)
    module = names[made.parse_args(sys.argv[1:2] or ["--help"]).name]
    del sys.argv[1]  # as the command itself would be called
    cli.run(import_module(module_of(module)).main)


if __name__ == "__main__":
    main()
