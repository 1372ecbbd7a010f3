"""Checks of annotated types and shapes that cost little: each function's are made at its first call.

jaxtyping's import hook makes them for every function as its module is imported, for seconds of each run; most
are never called in it. And in each call it looks at shapes, also where none are annotated.
"""

import inspect
from collections.abc import Callable
from functools import partial, wraps
from typing import Any, get_args, get_type_hints

import jaxtyping
from beartype import BeartypeConf, beartype
from jaxtyping import AbstractArray, TypeCheckError, jaxtyped

Function = Callable[..., Any]
TYPES: Function = beartype(conf=BeartypeConf(violation_type=TypeCheckError))  # the error of `jaxtyped`


def check_lazily() -> None:
    """From here on modules that the import hook reads get these checks. Calling it again changes nothing."""
    jaxtyping.jaxtyped = lazily  # which the hook puts before each function, by this name


def lazily(function: object = None, *, typechecker: Function) -> Any:
    """In place of `jaxtyped`: a function that is checked from its first call on; all else at once."""
    if function is None:
        return partial(lazily, typechecker=typechecker)
    if not inspect.isfunction(function):
        return jaxtyped(function, typechecker=typechecker)
    checked: Function | None = None

    @wraps(function)
    def called(*args: object, **kwargs: object) -> object:
        nonlocal checked
        if checked is None:
            check = TYPES if is_plain(function) else jaxtyped(typechecker=typechecker)
            checked = check(function)
        return checked(*args, **kwargs)

    return called


def is_plain(function: Function) -> bool:
    """Whether types alone are to be checked, of a function whose annotations can all be read."""
    if inspect.isgeneratorfunction(function) or inspect.iscoroutinefunction(function):
        return False
    try:
        hints = get_type_hints(function)
    except NameError:  # of what only mypy imports: jaxtyping leaves it out
        return False
    return not any(map(has_shape, hints.values()))


def has_shape(hint: object) -> bool:
    """Whether a shape stands anywhere in an annotation."""
    if inspect.isclass(hint) and issubclass(hint, AbstractArray):
        return True
    return any(map(has_shape, get_args(hint)))
