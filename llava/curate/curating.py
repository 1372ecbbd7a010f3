"""Asks the language model for what is missing, writes what came of it; `llava.curate` is the command."""

from __future__ import annotations

import glob
import logging
import sys
import threading

from egogen.files import clean_parts, write_json
from egogen.locks import hold
from egogen.unfinished import PARTS
from llava.curate.budget import Budget, Spending
from llava.curate.curation import Curation, read_curation
from llava.curate.endpoint import connect
from llava.curate.exchange import LanguageModel
from llava.curate.flags import CurationOptions
from llava.curate.paid_answers import Answers
from llava.curate.result import check_place, report, summary, write_result
from llava.curate.review_sheet import write_sheet
from llava.curate.rounds import Rounds

log = logging.getLogger(__name__)

EXIT_LEFT_OUT, EXIT_OVER_BUDGET = 3, 4
TOLD = 5  # actions that are left out whose reasons are told at once


def open_model(work: Curation, budget: Budget, stop: threading.Event) -> LanguageModel:
    """The language model that the flags name."""
    options = work.options
    if options.local is None:
        return connect(options, work.model, budget, stop)
    # Imported late: an endpoint needs no torch.
    from llava.curate.local import load_local

    return load_local(options.local, work.model, options.sampling, options.batch_size)


def finish(work: Curation, this_run: Spending, all_runs: Spending, lost: int) -> None:
    """Writes the result, the report and the sheet, and tells what came of it."""
    options = work.options
    write_result(work)
    path = work.part.with_name(f"{work.part.stem}.report.json")
    write_json(path, report(work, this_run, all_runs, lost))
    if options.sheet is not None:
        about = {name: str(work.settings[name]) for name in ("dataset", "split", "model", "prompt")}
        frames = work.layout.frames(options.split)
        write_sheet(options.sheet, work.cases, options.sheet_size, frames, about)
        log.info("%s: a sample to read", options.sheet)
    for item, case in work.left_out[:TOLD]:
        log.warning(
            "left out: clip %r, action %r (%s): %s", item.clip, item.id, item.action.action, case.reason
        )
    log.info("%s", summary(work, this_run, all_runs))
    log.info("%s: conversations; %s: the report", work.part, path.name)


def curate(options: CurationOptions) -> int:
    """Describes a split, or tells what that would take; the exit code."""
    work = read_curation(options)
    rounds = Rounds(work.prompt, work.recipe, Answers(options.cache), options.ask_again + 1)
    todo = rounds.replay(work.cases)
    if options.dry_run:
        sys.stdout.write(work.plan(todo) + "\n")
        return 0
    log.info("%s", work.plan(todo))
    with hold(work.part, "curating"):
        clean_parts(work.out.parent, f".{glob.escape(work.out.stem)}.*.part")  # of manifest and report
        clean_parts(options.cache, PARTS)
        check_place(work.out, work.settings)
        earlier = set(rounds.used)
        prices = options.prices
        budget = Budget(prices, options.max_cost, Spending.of(rounds.used.values(), prices).cost)
        if todo:
            stop = threading.Event()
            rounds.run(todo, open_model(work, budget, stop), stop)
        this_run = Spending.of([rounds.used[key] for key in rounds.used.keys() - earlier], prices)
        finish(work, this_run, Spending.of(rounds.used.values(), prices), budget.lost)
    if rounds.over_budget:
        log.warning(
            "--max-cost %g: stopped before it; give more, and the same command goes on", options.max_cost
        )
        return EXIT_OVER_BUDGET
    return EXIT_LEFT_OUT if work.left_out else 0
