"""Pages of records, also where only some of those that the store finds are to be shown."""

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from leptonai.control.api.routing import MAX_PAGE_SIZE, Call, Parameter
from leptonai.core.records import Record
from leptonai.ports.store import Query

R = TypeVar("R", bound=Record)

MAX_PAGE = 1_000_000

PAGING = (
    Parameter("page", int, "The first is 1; past the end it is empty.", least=1, most=MAX_PAGE),
    Parameter("page_size", int, "Resources on a page.", least=1, most=MAX_PAGE_SIZE),
)


async def page_of(
    call: Call, kind: type[R], query: Query, shown: Callable[[R], bool] | None
) -> list[R]:
    """The page that the call asks for, of those records that are `shown` (None: all are)."""
    size = call.number("page_size", MAX_PAGE_SIZE)
    skip = (call.number("page", 1) - 1) * size
    if shown is None:
        return await call.world.store.find(kind, _window(query, skip, size))
    page: list[R] = []
    offset = 0
    while True:
        found = await call.world.store.find(kind, _window(query, offset, MAX_PAGE_SIZE))
        for record in found:
            if not shown(record):
                continue
            if skip:
                skip -= 1
                continue
            page.append(record)
            if len(page) == size:
                return page
        if len(found) < MAX_PAGE_SIZE:
            return page
        offset += MAX_PAGE_SIZE


def _window(query: Query, offset: int, limit: int) -> Query:
    return replace(query, offset=offset, limit=limit)
