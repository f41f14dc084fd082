"""Pages of records, also where only some of those that the store finds are to be shown."""

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from leptonai.control.api.routing import MAX_PAGE_SIZE, Call, Parameter
from leptonai.core.records import Record
from leptonai.errors import InvalidRequest
from leptonai.ports.store import Query

R = TypeVar("R", bound=Record)

MAX_PAGE = 1_000_000
MAX_LABEL_TERMS = 32

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


def label_selector(text: str) -> Callable[[dict[str, str]], bool] | None:
    """`k`, `k=v`, joined by commas that mean "and"; None selects everything."""
    keys, pairs = label_terms(text)
    if not keys and not pairs:
        return None

    def selects(labels: dict[str, str]) -> bool:
        return all(key in labels for key in keys) and all(
            labels.get(key) == value for key, value in pairs
        )

    return selects


def label_terms(text: str) -> tuple[list[str], list[tuple[str, str]]]:
    """The keys that must be there, and those that must have a value."""
    terms = [term.strip() for term in text.split(",") if term.strip()]
    if len(terms) > MAX_LABEL_TERMS:
        raise InvalidRequest(
            f"the parameter query has {len(terms)} terms", hint=f"At most {MAX_LABEL_TERMS}."
        )
    keys: list[str] = []
    pairs: list[tuple[str, str]] = []
    for term in terms:
        key, equals, value = (part.strip() for part in term.partition("="))
        if equals:
            pairs.append((key, value))
        else:
            keys.append(key)
    return keys, pairs


def _window(query: Query, offset: int, limit: int) -> Query:
    return replace(query, offset=offset, limit=limit)
