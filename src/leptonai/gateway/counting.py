"""Which requests an endpoint's scaling target counts. Pure."""

from __future__ import annotations

from leptonai.core.routing import Counting


class Counted:
    """Made when a route arrives, so that a request has little to compute."""

    __slots__ = ("_methods", "_paths", "_prefixes")

    def __init__(self, counting: Counting) -> None:
        self._methods = frozenset(method.upper().encode() for method in counting.methods)
        paths = [path.encode() for path in counting.paths]
        self._paths = frozenset(path for path in paths if not path.endswith(b"*"))
        self._prefixes = tuple(path[:-1] for path in paths if path.endswith(b"*"))

    def counts(self, method: bytes, path: bytes) -> bool:
        """
        Args:
            path: as the replica gets it, query included.
        """
        if self._methods and method not in self._methods:
            return False
        if not (self._paths or self._prefixes):
            return True
        plain = path.partition(b"?")[0]
        return plain in self._paths or plain.startswith(self._prefixes)
