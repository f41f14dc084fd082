"""What DNS says of domains, looked up beside the requests that ask for it."""

import socket
import threading
from collections import OrderedDict
from collections.abc import Callable

from leptonai.core.ingress import Lookup
from leptonai.ports.clock import Clock

LOOK_EVERY_MS = 60_000
MAX_AT_ONCE = 4
MAX_KNOWN = 1_000

Resolve = Callable[[str], tuple[str, ...]]


def resolve(host: str) -> tuple[str, ...]:
    """Its addresses; none where it has none, or nobody answers. Blocks for as long as the system's
    resolver has patience."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return ()
    return tuple(sorted({str(address[0]) for *_, address in found}))


class DomainLookups:
    """Answers at once with what was found last, and looks again where that is old. A thread that
    waits for a resolver holds up neither a request nor the end of the process."""

    def __init__(self, clock: Clock, gateway_host: str, *, resolve: Resolve = resolve) -> None:
        self.gateway_host = gateway_host
        self._clock = clock
        self._resolve = resolve
        self._lock = threading.Lock()
        self._known: OrderedDict[str, Lookup] = OrderedDict()
        self._asking: set[str] = set()

    def known(self, domain: str) -> Lookup | None:
        """None: it was not looked up yet."""
        now_ms = self._clock.now_ms()
        with self._lock:
            found = self._known.get(domain)
            fresh = found is not None and now_ms - found.at_ms < LOOK_EVERY_MS
            if fresh or domain in self._asking or len(self._asking) >= MAX_AT_ONCE:
                return found
            self._asking.add(domain)
        threading.Thread(target=self._look_up, args=(domain, now_ms), daemon=True).start()
        return found

    def _look_up(self, domain: str, now_ms: int) -> None:
        addresses = self._resolve(domain)
        ours = self._resolve(self.gateway_host) if addresses else ()
        found = Lookup(addresses, leads_here=not {*addresses}.isdisjoint(ours), at_ms=now_ms)
        with self._lock:
            self._asking.discard(domain)
            self._known[domain] = found
            self._known.move_to_end(domain)
            while len(self._known) > MAX_KNOWN:
                self._known.popitem(last=False)
