from __future__ import annotations

import random
import threading

import pytest

from llava.curate.budget import Budget, OverBudget, Prices, Spending, chat_tokens
from llava.curate.exchange import Message, Reply, Usage
from llava.curate.prompt import read_prompt

PRICES = Prices(prompt=1.0, completion=4.0)
MOST = Usage(1000, 250)  # 0.002 at these prices


def test_prices_are_of_a_million_tokens() -> None:
    assert PRICES.of(MOST) == pytest.approx(0.002)
    replies = [Reply("", False, False, *tokens, True) for tokens in ((1000, 250), (1, 2))]
    assert Spending.of(replies, PRICES) == Spending(2, 0, 1001, 252, (1001 + 4 * 252) / 1e6)
    assert Spending.of([], PRICES) == Spending(0, 0, 0, 0, 0.0)


def test_a_request_that_might_pass_the_limit_is_held_back() -> None:
    budget = Budget(PRICES, limit=0.005)
    for _ in range(2):
        budget.settle(budget.reserve(MOST), MOST, MOST)
    with pytest.raises(OverBudget):
        budget.reserve(MOST)
    assert budget.spent == pytest.approx(0.004)


def test_what_was_spent_before_counts() -> None:
    with pytest.raises(OverBudget):
        Budget(PRICES, limit=0.005, spent=0.004).reserve(MOST)


def test_without_a_limit_nothing_is_held_back() -> None:
    budget = Budget(PRICES)
    for _ in range(100):
        budget.reserve(MOST)


def test_a_request_that_costs_more_than_expected_makes_the_next_ones_dearer() -> None:
    budget = Budget(PRICES, limit=0.013)
    budget.settle(budget.reserve(MOST), MOST, Usage(3000, 750))
    budget.settle(budget.reserve(MOST), MOST, MOST)
    with pytest.raises(OverBudget):
        budget.reserve(MOST)
    assert budget.spent == pytest.approx(0.008)


def test_a_lost_answer_counts_and_a_refused_request_does_not() -> None:
    budget = Budget(PRICES, limit=0.005)
    budget.release(budget.reserve(MOST), lost=False)
    assert budget.spent == 0.0
    budget.release(budget.reserve(MOST), lost=True)
    assert (budget.spent, budget.lost) == (pytest.approx(0.002), 1)


def test_nothing_costs_nothing() -> None:
    budget = Budget(Prices(0.0, 0.0), limit=0.0)
    for _ in range(3):
        budget.settle(budget.reserve(MOST), MOST, MOST)
    assert budget.spent == 0.0


@pytest.mark.parametrize("seed", range(5))
def test_threads_never_pass_the_limit_together(seed: int) -> None:
    budget = Budget(PRICES, limit=0.1)
    rng = random.Random(seed)
    # A server whose counts are up to twice what is expected, and the same for all.
    factor = rng.uniform(0.2, 2.0)
    used = Usage(round(1000 * factor), round(250 * factor))
    spent: list[float] = []

    def work() -> None:
        while True:
            try:
                price = budget.reserve(MOST)
            except OverBudget:
                return
            spent.append(PRICES.of(used))
            budget.settle(price, MOST, used)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    assert 0.1 - 2 * PRICES.of(MOST) * max(factor, 1) < sum(spent) <= 0.1
    assert (budget.under_way, budget.held) == (0, 0.0)


def test_crumbs_of_arithmetic_hold_nobody_up() -> None:
    budget = Budget(Prices(1.0, 1.0), limit=1e-6)
    budget.tried = True
    first, second = budget.reserve(Usage(0, 0)), budget.reserve(Usage(0, 1))
    budget.held += 1e-17
    budget.release(first, lost=False)
    budget.release(second, lost=False)
    with pytest.raises(OverBudget):
        budget.reserve(Usage(1, 1))


def test_the_estimate_of_a_chat() -> None:
    # 1,378 tokens by cl100k_base and o200k_base, with 4 a message.
    chat = read_prompt(None).first("Action: cut the apple", None)
    assert chat_tokens(chat) == pytest.approx(1300, rel=0.1)
    assert chat_tokens([Message("user", "abc")]) == 5
