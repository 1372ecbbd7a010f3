"""Has a language model describe a split's actions, and writes the conversations that stage 1 is tuned on.

Exit code: 0, every action is described; 3, some are left out (the report says which and why); 4, --max-cost
would have been passed before all were asked about; 2, a mistake. The same command goes on where an earlier
run stopped, and no answer is paid for twice.
"""

from __future__ import annotations

from collections.abc import Sequence

from egogen import cli
from llava.curate.flags import CurationOptions


def main(argv: Sequence[str] | None = None) -> None:
    """Describes a split, or tells what that would take."""
    options = cli.options(CurationOptions, argv, "python -m llava.curate", __doc__)
    from llava.curate.curating import curate

    if code := curate(options):
        raise SystemExit(code)


if __name__ == "__main__":
    cli.run(main)
