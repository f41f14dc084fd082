"""`ahead`: the next item is made while one is worked on."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")


def ahead(items: Iterator[Item]) -> Iterator[Item]:
    """The same, in their order, made by a thread of their own: two are there at once. Who stops
    early has let one more be made, and waits for it."""
    with ThreadPoolExecutor(1, "leptonai-ahead") as thread:
        coming = thread.submit(_next, items)
        while item := coming.result():
            coming = thread.submit(_next, items)
            yield item[0]


def _next(items: Iterator[Item]) -> tuple[Item] | None:
    return next(((item,) for item in items), None)
