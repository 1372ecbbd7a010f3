"""What ships with the packages, wherever these are installed: the configurations, and the toy start."""

from __future__ import annotations

from pathlib import Path

CONFIGS = Path(__file__).with_name("configs")
TOY_START = Path(__file__).with_name("toy_assets")


def find_config(path: Path) -> Path:
    """A file itself or, outside a checkout, the one that ships under such a name (`configs/...`)."""
    if path.parts[:1] != (CONFIGS.name,) or path.exists():
        return path
    shipped = CONFIGS.joinpath(*path.parts[1:])
    return shipped if shipped.is_file() else path
