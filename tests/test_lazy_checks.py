"""What is noticed by checks of types and shapes that are made at a function's first call."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pytest
from beartype import beartype
from jaxtyping import Float, TypeCheckError

from egogen.shards import parse_shard
from tests.lazy_checks import is_plain, lazily

if TYPE_CHECKING:
    from decimal import Decimal


def doubled(value: int) -> int:
    return value if value == 3 else f"{value}"  # type: ignore[return-value]


def joined(a: Float[np.ndarray, "b d"], b: Float[np.ndarray, "b d"]) -> np.ndarray:
    return np.concatenate([a, b])


def unresolved(_: Decimal, image: Float[np.ndarray, "h w"]) -> np.ndarray:
    return image


def counted(until: int) -> Iterator[int]:
    yield from range(until)


def test_types_are_checked_of_arguments_and_of_what_is_returned() -> None:
    checked = lazily(doubled, typechecker=beartype)
    assert checked(3) == 3
    for wrong in ("3", 4):
        with pytest.raises(TypeCheckError):
            checked(wrong)


def test_shapes_are_checked_against_each_other() -> None:
    checked = lazily(joined, typechecker=beartype)
    assert checked(np.zeros((2, 3), np.float32), np.zeros((2, 3), np.float32)).shape == (4, 3)
    with pytest.raises(TypeCheckError):
        checked(np.zeros((2, 3), np.float32), np.zeros((3, 3), np.float32))


def test_what_can_be_read_is_checked_beside_what_cannot() -> None:
    checked = lazily(unresolved, typechecker=beartype)
    assert checked("a", np.zeros((2, 3), np.float32)).shape == (2, 3)
    with pytest.raises(TypeCheckError):
        checked("a", np.zeros(2, np.float32))


def test_steps_of_an_iterator_come_when_they_are_asked_for() -> None:
    assert [*lazily(counted, typechecker=beartype)(3)] == [0, 1, 2]


@pytest.mark.parametrize(("function", "plain"), [(doubled, True), (joined, False), (unresolved, False)])
def test_where_no_shape_is_annotated_types_alone_are_checked(function: object, plain: bool) -> None:
    assert is_plain(function) == plain  # type: ignore[arg-type]


def test_the_hook_has_put_them_before_our_functions() -> None:
    with pytest.raises(TypeCheckError):
        parse_shard(3)  # type: ignore[arg-type]
