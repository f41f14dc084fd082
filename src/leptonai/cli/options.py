"""Options that several commands take, as one decorator."""

from collections.abc import Callable
from functools import wraps
from inspect import signature
from typing import Any, Protocol, TypeVar, cast

F = TypeVar("F", bound=Callable[..., Any])


class Options(Protocol):
    def __call__(self, function: F, /) -> F: ...


def together(*options: Options) -> Options:
    """These, which help shows in this order."""

    def add(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return add


def as_one(name: str, read: Callable[..., object], *options: Options) -> Options:
    """These, of which a command gets one argument: what `read` makes of them."""
    names = [*signature(read).parameters]

    def add(function: F) -> F:
        @wraps(function)
        def given_one(**values: Any) -> Any:
            asked = {each: values.pop(each) for each in names}
            return function(**values, **{name: read(**asked)})

        return cast(F, together(*options)(given_one))

    return add
