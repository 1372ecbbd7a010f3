"""Lists the toy start that ships with the packages, says where its files are, and checks their hashes.

Without a flag it lists them. In Python: `egogen.assets.place("lego.safetensors")` is the path of one.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from egogen import cli
from egogen.cli import flag
from egogen.errors import UserError
from egogen.seeds import read_seed
from egogen.shipped import TOY_START


@dataclass(frozen=True)
class AssetOptions:
    """What to do with them."""

    folder: Path = flag("the toy start", type=Path, default=TOY_START)
    verify: bool = flag("read every file and compare its hash with the manifest's", action="store_true")
    path: str | None = flag("print where a file or folder of this name is", default=None)
    seal: Path | None = flag("write the manifest: DATA_ROOT of the world it was made from", type=Path)
    scores: list[str] = flag(
        "with --seal: what was measured", nargs="*", default=[], metavar="NAME=METRIC.JSON"
    )
    losses: Path | None = flag("with --seal: trainer_state.json of stage 1's training", type=Path)
    command: str = flag("with --seal: what made the files", default="bash scripts/make_toy_assets.sh")
    seed: int = flag("with --seal: of weights, batches and noise", type=read_seed, default=0)


def main(argv: Sequence[str] | None = None) -> None:
    """Lists, finds, verifies or seals."""
    options = cli.options(AssetOptions, argv, "python -m egogen.assets", __doc__)
    from egogen.asset_manifest import seal, table, verify

    if options.path is not None:
        sys.stdout.write(f"{place(options.path, options.folder)}\n")
    elif options.seal is not None:
        scores = dict(map(named, options.scores))
        seal(options.folder, options.seal, scores, options.losses, options.command, options.seed)
    elif options.verify:
        sys.stdout.write(f"{verify(options.folder)} files are as the manifest says\n")
    else:
        sys.stdout.write(table(options.folder))


def named(text: str) -> tuple[str, Path]:
    """Both sides of `NAME=FILE`; a `UserError` tells that it has none."""
    name, _, path = text.partition("=")
    if not (name and path):
        raise UserError(
            f"--scores {text!r}: expected NAME=FILE, such as lego=samples/lego/metric/metric.json"
        )
    return name, Path(path)


def place(name: str, folder: Path = TOY_START) -> Path:
    """Where a file or folder of the toy start is.

    Raises:
        UserError: it is not there.
    """
    path = folder / name
    if not path.exists():
        there = ", ".join(sorted(each.name for each in folder.glob("*"))) or "nothing"
        raise UserError(f"{path}: no such part of the toy start; in {folder} there is {there}")
    return path


if __name__ == "__main__":
    cli.run(main)
