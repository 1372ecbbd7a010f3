"""Has a language model describe a split's actions, and writes the conversations that stage 1 is tuned on.

Exit code: 0, every action is described; 3, some are left out (the report says which and why); 4, --max-cost
would have been passed before all were asked about; 2, a mistake. The same command goes on where an earlier
run stopped, and no answer is paid for twice.
"""

from __future__ import annotations

import argparse
import logging
import sys
import threading
from collections.abc import Sequence
from typing import Any

from egogen import cli
from egogen.locks import hold
from llava.curate.answers import Answers
from llava.curate.budget import Budget, sum_of
from llava.curate.endpoint import connect
from llava.curate.exchange import Model
from llava.curate.flags import arguments
from llava.curate.job import Job, read_job
from llava.curate.result import check_place, report, spending, summary, write_report, write_result
from llava.curate.rounds import Rounds
from llava.curate.sheet import write_sheet

log = logging.getLogger(__name__)

EXIT_LEFT_OUT, EXIT_OVER_BUDGET = 3, 4
TOLD = 5  # actions that are left out whose reasons are told at once


def open_model(job: Job, args: argparse.Namespace, budget: Budget, stop: threading.Event) -> Model:
    """The language model that the flags name."""
    if args.local is None:
        return connect(job.model, job.sampling, budget, stop, args)
    # Imported late: an endpoint needs no torch.
    from llava.curate.local import load_local

    return load_local(args.local, job.model, job.sampling, args.batch_size)


def finish(job: Job, args: argparse.Namespace, made: dict[str, Any]) -> None:
    """Writes the result, the report and the sheet, and tells what came of it."""
    write_result(job)
    path = write_report(job.part, made)
    if args.sheet is not None:
        about = {name: str(job.settings[name]) for name in ("dataset", "split", "model", "prompt")}
        write_sheet(args.sheet, job.cases, args.sheet_size, job.layout.frames(args.split), about)
        log.info("%s: a sample to read", args.sheet)
    for item in made["actions_left_out"][:TOLD]:
        log.warning("left out: clip %r, action %r (%s): %s", *item.values())
    log.info("%s", summary(made))
    log.info("%s: conversations; %s: the report", job.part, path.name)


def main(argv: Sequence[str] | None = None) -> None:
    """Describes a split, or tells what that would take."""
    args = arguments(argv, __doc__)
    job = read_job(args)
    rounds = Rounds(job.prompt, job.recipe, Answers(args.cache), args.ask_again + 1)
    todo = rounds.replay(job.cases)
    if args.dry_run:
        sys.stdout.write(job.plan(todo) + "\n")
        return
    log.info("%s", job.plan(todo))
    with hold(job.part, "curating"):
        check_place(job.out, job.settings)
        earlier = dict(rounds.used)
        spent = job.prices.of(sum_of(reply.usage for reply in earlier.values()))
        budget = Budget(job.prices, args.max_cost, spent)
        if todo:
            stop = threading.Event()
            rounds.run(todo, open_model(job, args, budget, stop), stop)
        costs = {
            "this_run": spending(
                [rounds.used[key] for key in rounds.used.keys() - earlier.keys()], job.prices
            ),
            "all_runs": spending(list(rounds.used.values()), job.prices),
            "tries_of_this_run_that_may_have_been_charged_too": budget.lost,
        }
        finish(job, args, report(job.cases, costs, job.settings))
    if rounds.over_budget:
        log.warning(
            "--max-cost %g: stopped before it; give more, and the same command goes on", args.max_cost
        )
        raise SystemExit(EXIT_OVER_BUDGET)
    if any(case.description is None for case in job.cases):
        raise SystemExit(EXIT_LEFT_OUT)


if __name__ == "__main__":
    cli.run(main)
