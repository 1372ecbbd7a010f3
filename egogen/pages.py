"""HTML pages from a package's templates: texts are escaped, and a word that is not given is an error."""

from __future__ import annotations

from collections.abc import Mapping

from jinja2 import Environment, PackageLoader, StrictUndefined


def render(package: str, template: str, words: Mapping[str, object]) -> str:
    """Fills a template.

    Args:
        package: whose folder `templates` holds it.
        template: its file name.
        words: what it speaks of, by name.
    """
    pages = Environment(
        loader=PackageLoader(package),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return pages.get_template(template).render(words)
