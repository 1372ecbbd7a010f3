"""Checks every annotated shape while the tests run. Must come before any import of our packages."""

from jaxtyping import install_import_hook

install_import_hook(["egogen", "llava", "ldm"], "beartype.beartype")
