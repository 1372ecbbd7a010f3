"""Checks every annotated shape while the tests run. Must come before any import of our packages."""

from jaxtyping import install_import_hook

install_import_hook(["egogen", "llava", "ldm"], "beartype.beartype")


def pytest_report_header() -> str:
    """Says whether tests of real samples are left out; `-ra` lists them with their reasons."""
    from tests.samples import EPIC, PAIRS, missing

    left_out = dict.fromkeys(why for folder in (EPIC, PAIRS) if (why := missing(folder)))
    return "; ".join(f"tests left out, {why}" for why in left_out) or "tests of real samples run too"
