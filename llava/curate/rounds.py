"""The work: every case is asked about and its answer checked; in further rounds bad ones are asked again."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

from egogen.errors import UserError
from egogen.progress import Progress
from llava.curate.budget import OverBudget
from llava.curate.cases import Case
from llava.curate.exchange import LanguageModel, Message, NoAnswer, Reply, key_of
from llava.curate.paid_answers import Answers, Line
from llava.curate.prompt import Prompt

log = logging.getLogger(__name__)

# So many requests in a row without an answer end the run: the server is down, or the settings are wrong.
MOST_UNANSWERED = 10


class ChatRequest(NamedTuple):
    """A request that has no answer yet."""

    case: Case
    chat: list[Message]
    key: str


@dataclass
class Rounds:
    """The rounds of a run."""

    prompt: Prompt  # what is asked
    recipe: Mapping[str, object]  # what decides an answer beside the messages
    answers: Answers  # those that are there already, and where new ones go
    most_attempts: int  # answers that a case may get
    used: dict[str, Reply] = field(default_factory=dict)  # the replies behind the cases' attempts, by key
    over_budget: bool = False  # asking stopped at the limit of money
    works: bool = False  # the recipe has got answers: it is not to blame where a request is rejected
    unanswered: int = 0  # requests in a row that got no answer

    def replay(self, cases: Sequence[Case]) -> list[Case]:
        """Takes the answers that are there already; returns the cases that are still open."""
        for case in cases:
            while case.is_open(self.most_attempts):
                key = key_of(case.chat(self.prompt), self.recipe)
                reply = self.answers.get(key)
                if reply is None:
                    break
                self.used[key] = reply
                self.works = True
                case.take(reply, self.prompt)
        return [case for case in cases if case.is_open(self.most_attempts)]

    def run(self, cases: Sequence[Case], model: LanguageModel, stop: threading.Event) -> None:
        """Asks until no case is open; cases that get no answer at all are given up for this run."""
        self.answers.add([])  # a folder that cannot be written is noticed before anything is paid
        still_open = list(cases)
        for number in range(1, self.most_attempts + 1):
            if not still_open or self.over_budget:
                return
            name = "ask" if number == 1 else f"ask again ({number - 1})"
            self.ask_all(still_open, model, stop, name)
            still_open = self.replay(still_open)

    def ask_all(self, cases: Sequence[Case], model: LanguageModel, stop: threading.Event, name: str) -> None:
        """Asks about each case once, several at a time; equal requests are sent once.

        Interrupted, it waits for the answers that are under way, since they are paid for.
        """
        requests = self.requests(cases)
        running: dict[Future[None], list[ChatRequest]] = {}
        with (
            Progress(total=len(cases), desc=name, unit="case") as bar,
            ThreadPoolExecutor(model.workers) as pool,
        ):
            try:
                while True:
                    while len(running) < model.workers and (batch := list(islice(requests, model.batch))):
                        running[pool.submit(self.ask, model, batch)] = batch
                    if not running:
                        return
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        batch = running.pop(future)
                        self.note(future, batch)
                        bar.update(len(batch))
            except BaseException:
                log.warning("stopping; waiting for up to %d answers that are under way", len(running))
                stop.set()
                raise

    def requests(self, cases: Sequence[Case]) -> Iterator[ChatRequest]:
        """The requests of a round, equal ones once, until the budget is spent."""
        seen: set[str] = set()
        for case in cases:
            chat = case.chat(self.prompt)
            key = key_of(chat, self.recipe)
            if self.over_budget:
                return
            if key not in seen:
                seen.add(key)
                yield ChatRequest(case, chat, key)

    def ask(self, model: LanguageModel, batch: Sequence[ChatRequest]) -> None:
        """Gets the answers of a batch and writes them down at once; runs in a thread."""
        answered = zip(batch, model.ask([wanted.chat for wanted in batch]), strict=True)
        self.answers.add([Line(asked.key, reply, model.name, asked.case.words) for asked, reply in answered])

    def note(self, future: Future[None], batch: Sequence[ChatRequest]) -> None:
        """Notes how a batch ended.

        Raises:
            UserError: too many requests in a row got no answer.
        """
        try:
            future.result()
        except OverBudget:
            self.over_budget = True
        except NoAnswer as error:
            for wanted in batch:
                wanted.case.hindrance = str(error)
            self.unanswered += not (error.rejected and self.works)
            if self.unanswered >= MOST_UNANSWERED:
                raise UserError(
                    f"{self.unanswered} requests in a row got no answer; the last: {error}. Answers so far "
                    "are kept: run the same command again once this is mended"
                ) from None
        else:
            self.works, self.unanswered = True, 0
