"""Checks an EgoGen data set: texts against files, sizes, order, metric targets, features, duplicates, leaks.

Exit code 0: no fault; 1: faults were found; 2: there is nothing that can be checked.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from egogen import cli
from egogen.validate.validate_options import ValidateOptions


def main(argv: Sequence[str] | None = None) -> None:
    """Checks, prints a table, ends with code 1 if there are faults."""
    options = cli.options(ValidateOptions, argv, "python -m egogen.validate", __doc__)
    from egogen.files import write_json
    from egogen.validate.check_report import EXIT_FAULTS
    from egogen.validate.whole import validate

    report = validate(options)
    repaired = report.repaired or (["nothing, there was nothing to do"] if options.fix else [])
    sys.stdout.write("".join(f"repaired: {line}\n" for line in repaired) + report.text())
    if options.json:
        write_json(options.json, report.json())
    if report.faults:
        raise SystemExit(EXIT_FAULTS)


if __name__ == "__main__":
    cli.run(main)
