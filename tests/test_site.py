"""The documents hold together: links, anchors, the table of commands, messages, figures, the site's hooks."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

from egogen.cli import ENVIRONMENTS
from egogen.commands import COMMANDS
from tests.workbench import ROOT

PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted(
    ROOT.glob("docs/*.md")
)
FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?![a-z]+:)([^)\s]*)\)")
MESSAGES = re.findall(r"^\| `([^|]+)` \|", (ROOT / "docs/errors.md").read_text(), re.MULTILINE)


def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


@cache
def anchors(page: Path) -> set[str]:
    """What GitHub and the site call the headings of a page."""
    found = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    plain = [re.sub(r"[^\w\- ]", "", re.sub(r"\]\([^)]*\)", "", heading)) for heading in found]
    return {heading.strip().lower().replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_anchors_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(prose(page)):
        name, _, anchor = link.partition("#")
        goal = page if not name else (page.parent / name).resolve()
        assert goal.exists(), link
        assert not anchor or anchor in anchors(goal), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tables_have_a_head_and_rows_of_one_length(page: Path) -> None:
    """Rows behind an empty line are no table, but a paragraph of bars."""
    for block in re.split(r"\n\s*\n", prose(page)):
        head, *rows = block.strip("\n").splitlines() or [""]
        if head.startswith("|"):
            assert rows, head
            assert re.fullmatch(r"\|[\s:|-]+\|", rows[0]), head
            assert {len(re.findall(r"(?<!\\)\|", row)) for row in [head, *rows]} == {head.count("|")}, head


def test_every_page_is_in_the_navigation() -> None:
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text())

    def names(entry: object) -> Iterator[str]:
        if isinstance(entry, str):
            yield entry
        for inner in entry.values() if isinstance(entry, dict) else entry if isinstance(entry, list) else ():
            yield from names(inner)

    assert sorted(names(config["nav"])) == sorted(page.name for page in ROOT.glob("docs/*.md"))
    assert config["theme"]["font"] is False


def table_of_commands() -> list[tuple[list[str], str]]:
    """(commands, environment) of each row of docs/commands.md."""
    text = (ROOT / "docs/commands.md").read_text()
    rows = re.findall(r"^\| (`.*?`) \| .* \| (vllm|ldm|either|-) \|$", text, re.MULTILINE)
    return [(re.findall(r"`([^`]+)`", cell), needed) for cell, needed in rows]


def test_the_table_of_commands_is_that_of_the_packages() -> None:
    shown = {
        " ".join(word for word in command.split()[:3]) for row, _ in table_of_commands() for command in row
    }
    for command in COMMANDS:
        assert any(name == command.typed or name.startswith(f"{command.typed} ") for name in shown), command
    ours = {command.typed for command in COMMANDS}
    assert {name for name in shown if name.startswith("python -m")} <= ours


def test_rows_name_the_environments_of_their_commands() -> None:
    rows = table_of_commands()
    assert len(rows) > 30
    for commands, needed in rows:
        for command in commands:
            package = re.match(r"python (?:-m (\w+)|(main|app)\.py)", command)
            if package:
                assert needed == ENVIRONMENTS.get(package[1] or "ldm", "either"), command


def literals() -> Iterator[str]:
    """The texts in our code; a line break stands for what varies."""
    for file in (path for name in ("egogen", "llava", "ldm") for path in ROOT.glob(f"{name}/**/*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                yield "".join(part.value if isinstance(part, ast.Constant) else "\n" for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield re.sub(r"%\w", "\n", node.value)
    for script in ROOT.glob("scripts/*.sh"):
        yield from re.sub(r"\$\w+", "\n", script.read_text(encoding="utf-8")).split("\n\n")


@cache
def all_literals() -> str:
    """All of them, apart."""
    return "\0".join(literals())


@pytest.mark.parametrize("message", MESSAGES)
def test_a_message_is_one_of_ours(message: str) -> None:
    pieces = [re.escape(piece) for piece in re.split(r"\.\.\.", message)]
    assert re.search("[^\0]*\n[^\0]*".join(pieces), all_literals()), message


def test_messages_were_read() -> None:
    assert len(MESSAGES) > 25


@pytest.mark.parametrize("figure", sorted(ROOT.glob("docs/images/*.svg")), ids=lambda path: path.name)
def test_figures_are_whole_and_load_nothing(figure: Path) -> None:
    root = ElementTree.parse(figure).getroot()
    assert root.tag.endswith("svg")
    text = figure.read_text()
    assert not re.search(r"(href|src)=|url\((?!#)|@import", text)


@pytest.fixture(scope="module")
def hooks() -> Any:
    spec = spec_from_file_location("pages", ROOT / "docs/site/pages.py")
    assert spec is not None
    assert spec.loader is not None
    made = module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


@pytest.mark.parametrize(
    ("source", "link", "goal"),
    [
        ("flow.md", "stage1.md", "stage1.md"),
        ("container.md", "../Dockerfile", "repository/Dockerfile.md"),
        ("flow.md", "../README.md", "repository/README.md"),
        ("repository/README.md", "docs/flow.md", "../flow.md"),
        ("repository/README.md", "LICENSE", "LICENSE.md"),
        ("flow.md", "nowhere.md", "nowhere.md"),
    ],
)
def test_links_out_of_the_pages_lead_to_pages(hooks: Any, source: str, link: str, goal: str) -> None:
    assert hooks.link_on_site(source, link) == goal


def test_a_page_is_changed_outside_its_code_alone(hooks: Any) -> None:
    page = SimpleNamespace(file=SimpleNamespace(src_uri="container.md"))
    text = "[a](../Dockerfile)\n\n```bash run\necho '[a](../Dockerfile)'\n```\n"
    wanted = "[a](repository/Dockerfile.md)\n\n```bash\necho '[a](../Dockerfile)'\n```\n"
    assert hooks.on_page_markdown(text, page) == wanted


@pytest.mark.parametrize(
    ("html", "warned"),
    [
        ('<script src="https://elsewhere.example/x.js"></script>', True),
        ('<link rel="stylesheet" href="//elsewhere.example/x.css">', True),
        ("<img src=https://elsewhere.example/x.png>", True),
        ('<script src="assets/x.js"></script>', False),
        ('<a href="https://elsewhere.example">there</a>', False),
    ],
)
def test_what_a_page_loads_from_elsewhere_is_named(
    hooks: Any, caplog: pytest.LogCaptureFixture, html: str, warned: bool
) -> None:
    hooks.on_post_page(html, SimpleNamespace(file=SimpleNamespace(src_uri="x.md")))
    assert ("loads from elsewhere" in caplog.text) is warned


def test_the_reference_names_modules_that_are_there(hooks: Any) -> None:
    for module in hooks.MODULES:
        place = ROOT / module.replace(".", "/")
        assert place.with_suffix(".py").is_file() or (place / "__init__.py").is_file(), module
