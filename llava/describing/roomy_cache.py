"""Keys and values of a batch in memory that is made beforehand: a token is written, nothing is copied for it.

Transformers' own cache that grows copies all it holds at every token; its static one lets every token look
at all places, of which an answer seldom needs a tenth.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import Cache, LlamaConfig
from transformers.cache_utils import DynamicLayer

SPARE = 128  # places that are made beyond those in use, the first time; then twice as many, and so on


class RoomyLayer(DynamicLayer):
    """The keys and values of one layer; `keys` and `values` show the part of the room that is in use.

    Args:
        longest: places that a row will ever need; more are never made.
    """

    def __init__(self, longest: int) -> None:
        super().__init__()
        self.longest, self.spare = longest, SPARE
        self.rooms: list[Float[Tensor, "b h t d"]] = []  # of keys and of values

    def update(
        self,
        key_states: Float[Tensor, "b h n d"],
        value_states: Float[Tensor, "b h n d"],
        *_args: object,
        **_more: object,
    ) -> tuple[Float[Tensor, "b h t d"], Float[Tensor, "b h t d"]]:
        """Writes the new places behind those in use; returns all that are in use."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        seen = self.get_seq_length()
        end = seen + key_states.shape[-2]
        if not self.rooms or end > self.rooms[0].shape[-2]:
            places = max(end, min(end + self.spare, self.longest))
            self.spare *= 2
            # One after the other, so that an old room is gone before the next new one is made.
            self.rooms = []
            self.keys = self.moved(self.keys, key_states, seen, places)
            self.values = self.moved(self.values, value_states, seen, places)
        rows = len(key_states)
        for room, new in zip(self.rooms, (key_states, value_states), strict=True):
            room[:rows, :, seen:end] = new
        self.keys, self.values = (room[:rows, :, :end] for room in self.rooms)
        return self.keys, self.values

    def moved(
        self, used: Tensor | None, new: Float[Tensor, "b h n d"], seen: int, places: int
    ) -> Float[Tensor, "b h seen d"]:
        """Makes a larger room and moves what is in use into it; returns that part."""
        room = new.new_empty(*new.shape[:2], places, new.shape[-1])
        if seen:
            assert used is not None
            room[:, :, :seen] = used
        self.rooms.append(room)
        return room[:, :, :seen]

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeats each row; room for them is made at the next token."""
        super().batch_repeat_interleave(repeats)
        self.rooms, self.spare = [], SPARE

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keeps some rows in a new order; those that stay in their place are not moved."""
        if not self.rooms:
            return super().batch_select_indices(indices)
        order = indices.tolist()
        places = [place for place, row in enumerate(order) if place != row]
        seen = self.get_seq_length()
        for room in self.rooms if places else ():
            room[places, :, :seen] = room[[order[place] for place in places], :, :seen]
        self.keys, self.values = (room[: len(order), :, :seen] for room in self.rooms)
        return None


def roomy_cache(text: LlamaConfig, longest: int) -> Cache:
    """A cache for rows of at most so many places."""
    return Cache(layers=[RoomyLayer(longest) for _ in range(int(text.num_hidden_layers))])


def without_holes(going: list[int]) -> Tensor:
    """An order of the rows that go on in which as few as can be change their place.

    Args:
        going: the rows, ascending.

    Returns:
        For each place of the smaller batch the row that takes it; only rows from behind it move, into holes.
    """
    count = len(going)
    stay = {row for row in going if row < count}
    behind = iter(row for row in going if row >= count)
    return torch.tensor([place if place in stay else next(behind) for place in range(count)])
