"""Tokens and money: estimated before a request, counted by the server after it, never above a limit."""

from __future__ import annotations

import math
import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from llava.curate.exchange import Message, Reply, Usage

# Measured on requests about toy actions in cl100k_base and o200k_base alike: boxes are rich in tokens.
BYTES_PER_TOKEN = 3.0
TOKENS_PER_MESSAGE = 4
TOKENS_PER_IMAGE = 255  # one tile of 512 pixels in GPT-4o's count; others count otherwise


def text_tokens(text: str) -> int:
    """About how many tokens a text has."""
    return math.ceil(len(text.encode()) / BYTES_PER_TOKEN)


def chat_tokens(chat: Sequence[Message]) -> int:
    """About how many tokens a chat has, its pictures included."""
    return sum(
        text_tokens(message.text) + TOKENS_PER_MESSAGE + (TOKENS_PER_IMAGE if message.image else 0)
        for message in chat
    )


@dataclass(frozen=True)
class Prices:
    """Price of a million tokens that are read, and that are written."""

    prompt: float
    completion: float

    def of(self, usage: Usage) -> float:
        """Price of these tokens."""
        return (usage.prompt * self.prompt + usage.completion * self.completion) / 1e6


@dataclass(frozen=True)
class Spending:
    """Tokens and cost of some answers, by the server's count where it gave one."""

    answers: int
    of_which_tokens_are_estimated: int
    prompt_tokens: int
    completion_tokens: int
    cost: float

    @classmethod
    def of(cls, replies: Collection[Reply], prices: Prices) -> Spending:
        """Sums them up."""
        read = sum(reply.prompt_tokens for reply in replies)
        written = sum(reply.completion_tokens for reply in replies)
        estimated = sum(not reply.counted for reply in replies)
        return cls(len(replies), estimated, read, written, prices.of(Usage(read, written)))

    def __str__(self) -> str:
        cost = f", cost {self.cost:.4f}" if self.cost else ""
        tokens = f"{self.prompt_tokens:,} tokens read, {self.completion_tokens:,} written"
        return f"{self.answers} answers, {tokens}{cost}"


class OverBudget(Exception):  # noqa: N818 - an end, not an error
    """The next request might pass the limit."""


class Budget:
    """Adds what requests cost to what was spent before, and holds back those that might pass a limit.

    For many threads; without a limit, nothing is held back.
    """

    def __init__(self, prices: Prices, limit: float | None = None, spent: float = 0.0) -> None:
        self.prices, self.limit, self.spent = prices, limit, spent
        self.under_way, self.held = 0, 0.0  # requests, and what is set aside for them
        self.factor = 1.0  # how far a request has cost more than was expected
        self.tried = False
        self.lost = 0  # requests without an answer that may have been charged all the same
        self.changed = threading.Condition()

    def reserve(self, most: Usage) -> float:
        """Waits until a request fits beside those under way; until one is answered, they go one by one.

        Returns what was set aside, for `settle` or `release`; raises `OverBudget` if it does not fit and none
        is under way.
        """
        with self.changed:
            while True:
                price = self.prices.of(most) * self.factor
                if self.limit is None or (
                    self.spent + self.held + price <= self.limit and (self.tried or not self.under_way)
                ):
                    self.under_way += 1
                    self.held += price
                    return price
                if not self.under_way:
                    raise OverBudget
                self.changed.wait()

    def settle(self, price: float, most: Usage, used: Usage) -> None:
        """Charges an answered request."""
        cost = self.prices.of(used)
        with self.changed:
            self.spent += cost
            self.tried = True
            self.factor = max(self.factor, cost / (self.prices.of(most) or math.inf))
            self.end(price)

    def release(self, price: float, *, lost: bool) -> None:
        """Frees what a request without an answer had set aside; a lost one may have been charged."""
        with self.changed:
            self.lost += lost
            self.spent += price if lost else 0.0
            self.end(price)

    def end(self, price: float) -> None:
        """A request is under way no more: whoever waits may look again."""
        self.under_way -= 1
        # Not by subtraction alone, which leaves crumbs that never go.
        self.held = self.held - price if self.under_way else 0.0
        self.changed.notify_all()
