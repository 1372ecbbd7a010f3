"""The order of items: the same for any number of processes, batch size and restart."""

from __future__ import annotations

import pytest
import torch

from egogen.errors import UserError
from ldm.data.loaders import spread
from ldm.data.noise import draw, item_generator
from ldm.data.order import Key, StepOrder


def steps_of(world: int, batch: int, start: int = 0, seed: int = 3) -> list[set[Key]]:
    """The items of each optimiser step, over all processes."""
    per_step = 12 // (world * batch)
    found: list[set[Key]] = []
    for rank in range(world):
        order = StepOrder(50, 12, batch, 9, seed=seed, rank=rank, world=world, start=start)
        batches = list(order)
        assert len(batches) == (9 - start) * per_step
        assert all(len(keys) == batch for keys in batches)
        for step in range(9 - start):
            keys = {key for keys in batches[step * per_step : (step + 1) * per_step] for key in keys}
            if rank:
                found[step] |= keys
            else:
                found.append(keys)
    return found


def test_a_step_has_the_same_items_on_any_hardware() -> None:
    alone = steps_of(1, 12)
    assert alone == steps_of(1, 3) == steps_of(2, 6) == steps_of(4, 1) == steps_of(3, 2)
    assert all(len(step) == 12 for step in alone)


def test_a_restart_goes_on_in_the_middle_of_an_epoch() -> None:
    assert steps_of(2, 3, start=5) == steps_of(1, 12)[5:]


def test_an_epoch_shows_every_item_at_most_once_and_the_next_has_another_order() -> None:
    steps = steps_of(1, 12)
    for epoch in (0, 1):
        keys = [key for step in steps[4 * epoch : 4 * epoch + 4] for key in step]
        assert len({key.row for key in keys}) == 48
        assert {key.epoch for key in keys} == {epoch}
    assert [sorted(step) for step in steps[:4]] != [sorted(step) for step in steps[4:8]]
    assert steps_of(1, 12, seed=4) != steps


def test_the_length_counts_the_whole_run() -> None:
    assert len(StepOrder(50, 12, 3, 9, seed=0, world=2, start=5)) == 9 * 2


def test_too_few_items_are_named() -> None:
    with pytest.raises(UserError, match="effective_batch: 12, but the data set has only 5 pairs; use 5"):
        StepOrder(5, 12, 12, 1, seed=0)


def test_draws_are_keyed_by_seed_item_and_epoch() -> None:
    first, again = draw(1, "a/0", "0", 6, 8), draw(1, "a/0", "0", 6, 8)
    assert first.noise.shape == first.posterior_noise.shape == (4, 6, 8)
    for one, other in zip(first, again, strict=True):
        assert torch.equal(torch.as_tensor(one), torch.as_tensor(other))
    for other in (draw(2, "a/0", "0", 6, 8), draw(1, "a/1", "0", 6, 8), draw(1, "a/0", "1", 6, 8)):
        assert not torch.equal(first.noise, other.noise)


def test_a_frame_s_noise_is_keyed_by_seed_clip_and_action() -> None:
    keys = [(1, "a", "0"), (2, "a", "0"), (1, "b", "0"), (1, "a", "1")]
    first, *others = [torch.randn(8, generator=item_generator(*key)) for key in keys]
    assert torch.equal(first, torch.randn(8, generator=item_generator(*keys[0])))
    assert not any(torch.equal(first, other) for other in others)


def test_draws_are_spread_as_they_should_be() -> None:
    many = [draw(0, str(item), "0", 2, 2) for item in range(2000)]
    t = torch.stack([one.t for one in many]).double()
    assert (int(t.min()), int(t.max())) >= (0, 950)
    assert t.mean().item() == pytest.approx(499.5, abs=25)  # 4 standard errors
    noise = torch.stack([one.noise for one in many]).double()
    assert noise.mean().item() == pytest.approx(0, abs=0.02)
    assert noise.std().item() == pytest.approx(1, abs=0.02)
    both = torch.stack([noise, torch.stack([one.posterior_noise for one in many]).double()]).flatten(1)
    assert torch.corrcoef(both)[0, 1].item() == pytest.approx(0, abs=0.02)
    drop = torch.stack([one.drop for one in many])
    assert (drop < 0.15).double().mean().item() == pytest.approx(0.15, abs=0.03)
    assert sum(one.flip < 0.5 for one in many) == pytest.approx(1000, abs=100)


@pytest.mark.parametrize(
    ("most", "taken"),
    [(0, [*range(10)]), (10, [*range(10)]), (99, [*range(10)]), (4, [0, 2, 5, 7]), (1, [0])],
)
def test_what_is_validated_is_spread_over_the_split(most: int, taken: list[int]) -> None:
    assert spread(10, most) == taken
