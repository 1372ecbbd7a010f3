"""What MkDocs asks while it builds the site: the reference, files beside docs/, nothing from elsewhere."""

from __future__ import annotations

import logging
import posixpath
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
OUTSIDE = "repository"  # of the site: what lies beside docs/
# What may be imported, in the order of the flow.
MODULES = (
    "egogen.annotations", "egogen.layout", "egogen.frames", "egogen.features.npy", "egogen.features.store",
    "egogen.seeds", "egogen.manifest", "egogen.errors",
    "llava.model", "llava.describing.describing_loop", "llava.question.labels", "llava.question.prompts",
    "ldm.pipeline", "ldm.pipeline_saving",
    "ldm.conditioner", "ldm.guidance", "ldm.denoiser", "ldm.module", "ldm.diffusion.sampler",
    "ldm.checkpoints.source", "ldm.config.merge",
    "ldm.metrics.evaluation", "ldm.metrics.metric", "ldm.metrics.registry", "ldm.metrics.psnr",
    "ldm.metrics.ssim", "ldm.metrics.lpips", "ldm.metrics.clip", "ldm.metrics.fid", "ldm.metrics.egovlp",
    "ldm.metrics.egovlp_plus", "ldm.metrics.blip", "ldm.metrics.changed_box", "ldm.metrics.toy_success",
    "ldm.metrics.toy_features",
)  # fmt: skip
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)#\s]+)")
FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
LOADED = re.compile(
    r'<(?:script|img|iframe|source|link\s[^>]*rel="?(?:stylesheet|icon|preload|preconnect))\b[^>]*'
    r'(?:src|href)="?(?:https?:)?//[^>]*>'
)
log = logging.getLogger("mkdocs.hooks.pages")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Puts the reference into the navigation."""
    reference = {"Reference": [{module: f"reference/{module}.md"} for module in MODULES]}
    config.nav = [*(config.nav or []), reference]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds a page for each module of the reference, and for each file beside docs/ that pages link to."""
    for module in MODULES:
        files.append(
            File.generated(config, f"reference/{module}.md", content=f"# `{module}`\n\n::: {module}\n")
        )
    todo = [(page.src_uri, page.content_string) for page in files.documentation_pages()]
    while todo:
        for name in linked_files(*todo.pop()):
            goal = page_of(name)
            if goal not in files.src_uris:
                shown = as_page(name)
                files.append(File.generated(config, goal, content=shown, inclusion=InclusionLevel.NOT_IN_NAV))
                todo.append((goal, shown))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Turns links out of docs/ into links to pages here; takes off the mark of commands that tests run."""
    source = page.file.src_uri
    plain = re.sub(r"^```bash run$", "```bash", markdown, flags=re.MULTILINE)
    return outside_code(plain, lambda text: LINK.sub(lambda found: link_on_site(source, found[1]), text))


def on_post_page(output: str, page: Page, **_: object) -> str:
    """Warns of a page that would load something from elsewhere; a strict build fails."""
    for found in LOADED.findall(output):
        log.warning("%s: loads from elsewhere: %s", page.file.src_uri, found)
    return output


def outside_code(text: str, change: Callable[[str], str]) -> str:
    """Changes a text but for its fenced blocks."""
    parts, place = [], 0
    for block in FENCE.finditer(text):
        parts += [change(text[place : block.start()]), block[0]]
        place = block.end()
    return "".join([*parts, change(text[place:])])


def linked_files(source: str, text: str) -> Iterator[str]:
    """Files beside docs/ that a page names in its links."""
    for link in LINK.findall(FENCE.sub("", text)):
        name = in_repository(source, link)
        if not name.startswith("docs/") and (ROOT / name).is_file():
            yield name


def as_page(name: str) -> str:
    """A file of the repository as a page: Markdown as it is, a notebook's cells, anything else as code."""
    text = (ROOT / name).read_text(encoding="utf-8")
    if name.endswith(".md"):
        return text
    if name.endswith(".ipynb"):
        import nbformat

        cells = nbformat.reads(text, as_version=4).cells
        return "\n\n".join(
            each.source if each.cell_type == "markdown" else f"```python\n{each.source}\n```"
            for each in cells
        )
    language = (
        name.rpartition(".")[2] if name.endswith((".yaml", ".yml", ".toml", ".py", ".json")) else "text"
    )
    return f"# `{name}`\n\n```{language}\n{text}\n```\n"


def link_on_site(source: str, link: str) -> str:
    """A link of a page as it leads on the site; one to nothing stays, and MkDocs names it."""
    name = in_repository(source, link)
    if not (ROOT / name).is_file():
        return link
    goal = name.removeprefix("docs/") if name.startswith("docs/") else page_of(name)
    return posixpath.relpath(goal, posixpath.dirname(source) or ".")


def in_repository(source: str, link: str) -> str:
    """Where a link of a page leads, from the repository's root."""
    inside, _, rest = source.partition("/")
    here = rest if inside == OUTSIDE else f"docs/{source}"
    return posixpath.normpath(posixpath.join(posixpath.dirname(here), link))


def page_of(name: str) -> str:
    """Where the site has a file of the repository."""
    return f"{OUTSIDE}/{name}" if name.endswith(".md") else f"{OUTSIDE}/{name}.md"
