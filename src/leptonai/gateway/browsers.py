"""How a browser gets in, which cannot be told to send a token: by a link that works once, and that
gives it a cookie."""

from __future__ import annotations

import secrets
from urllib.parse import parse_qs, urlsplit

from leptonai.core.doors import (
    COOKIE,
    COOKIE_S,
    LOGIN_PATH,
    TICKET_S,
    cookie,
    is_cookie,
    read_ticket,
)
from leptonai.core.routing import Route
from leptonai.errors import Forbidden

from .answers import Answer, error_answer
from .head import RequestHead, cookie_of, value_of

MAX_USED_TICKETS = 10_000
_SAFE = frozenset((b"GET", b"HEAD", b"OPTIONS"))


class BrowserDoor:
    """Of one route. A ticket that this gateway did not see made is good until it is used here: one
    that is started anew lets none in that is older than itself."""

    def __init__(self, opened_at_s: float) -> None:
        self._opened_at_s = opened_at_s
        self._used: dict[str, int] = {}  # nonce of a used ticket: when it ends anyway

    def login(self, route: Route, head: RequestHead, path: bytes, now_s: float) -> Answer | None:
        """The answer to who comes by a link; None for any other request."""
        if not path.startswith(LOGIN_PATH):
            return None
        query = parse_qs(urlsplit(path.decode("ascii", "replace")).query)
        ticket = read_ticket(route.browser_key, query.get("ticket", [""])[-1], now_s)
        if head.method != b"GET" or ticket is None or not self._first_use(*ticket, now_s):
            return error_answer(
                Forbidden(
                    "this link has been used, or is older than a minute",
                    hint=f"get a new one: `leptonai pod open {route.name}`",
                ),
                head.request_id,
            )
        word = cookie(route.browser_key, int(now_s) + COOKIE_S, secrets.token_hex(16))
        lines = (
            f"location: {route.key}/\r\n"
            f"set-cookie: {COOKIE.decode()}={word}; Path={route.key}/; Max-Age={COOKIE_S}; "
            f"HttpOnly; SameSite=Lax\r\n"
            "cache-control: no-store\r\nreferrer-policy: no-referrer\r\n"
        )
        return Answer(303, b"", extra=lines.encode())

    def knows(self, route: Route, head: RequestHead, now_s: float) -> bool:
        """Whether the request has our cookie, and was made by a page of ours: another site's page
        can have a browser send a cookie, but not the origin that goes with it."""
        word = cookie_of(head.passed, COOKIE)
        if not word or not is_cookie(route.browser_key, word.decode("ascii", "replace"), now_s):
            return False
        origin = value_of(head.passed, b"origin")
        if origin:
            return origin.partition(b"://")[2].lower() == head.host.lower()
        return head.method in _SAFE and not head.websocket

    def _first_use(self, expires_s: int, nonce: str, now_s: float) -> bool:
        self._used = {used: ends for used, ends in self._used.items() if ends > now_s}
        made_at_s = expires_s - TICKET_S
        if nonce in self._used or made_at_s < int(self._opened_at_s):
            return False
        if len(self._used) >= MAX_USED_TICKETS:
            return False
        self._used[nonce] = expires_s
        return True
