"""Every error that Lepton raises on purpose. The tree branches by what the caller can do about it::

    LeptonError
    ├── RequestError         change the request
    │   ├── InvalidRequest       400  a field is wrong, missing or unknown
    │   ├── Unauthenticated      401  no token, or one that nobody issued
    │   ├── Forbidden            403  a known caller who may not do this
    │   ├── NotFound             404
    │   ├── Conflict             409
    │   │   ├── AlreadyExists        the name is taken
    │   │   ├── DeadlineTooEarly     a hard deadline; `data` says which could be promised
    │   │   ├── Locked               another process runs, starts or ends the platform of this home
    │   │   └── VersionConflict      somebody else changed it in between: read it again
    │   ├── TooLarge             413
    │   ├── RangeNotSatisfiable  416  begins after the end
    │   └── Unsatisfiable        422  well-formed, but no machine here could ever do it
    ├── TryLater             wait, then send the same request again
    │   ├── TooManyRequests      429
    │   ├── Unavailable          503  starting, stopping, or a dependency does not answer
    │   ├── StaleEpoch           503  another control plane has taken over
    │   └── StorageFull          507  the disk is full; nothing was written
    └── Internal             500  tell us

Between processes an error travels as data, ``{"code", "message", "hint"}``, with ``"data"`` where
there is more to compute with, and `from_wire` turns it back into the same class.
"""

from collections.abc import Mapping
from typing import Any, ClassVar


class LeptonError(Exception):
    """What happened (`message`), and what to do next (`hint`)."""

    code: ClassVar[str] = "Internal"  # stable: clients match on it, people search for it
    status: ClassVar[int] = 500  # the one place that knows about HTTP
    retry: ClassVar[bool] = False  # may the same request succeed later, unchanged?

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.data: Mapping[str, int | str] = {}
        if hint:
            self.add_note(f"hint: {hint}")  # what a traceback ends with

    def wire(self) -> dict[str, Any]:
        """The body of an error answer."""
        body: dict[str, Any] = {"code": self.code, "message": self.message, "hint": self.hint}
        return {**body, "data": dict(self.data)} if self.data else body


class RequestError(LeptonError):
    code, status = "RequestError", 400


class InvalidRequest(RequestError):
    code, status = "InvalidRequest", 400


class Unauthenticated(RequestError):
    code, status = "Unauthenticated", 401


class Forbidden(RequestError):
    code, status = "StatusForbidden", 403


class NotFound(RequestError):
    code, status = "NotFound", 404


class Conflict(RequestError):
    code, status = "Conflict", 409


class AlreadyExists(Conflict):
    code = "AlreadyExists"

    def __init__(self, message: str, *, hint: str = "", existing_id: str = "") -> None:
        super().__init__(message, hint=hint)
        self.existing_id = existing_id  # of the record that holds the name


class DeadlineTooEarly(Conflict):
    """Where a later deadline could be met, `data["earliest_ms"]` is the first that could: of the
    end, in milliseconds since 1970."""

    code = "DeadlineTooEarly"


class Locked(Conflict):
    code = "Locked"


class VersionConflict(Conflict):
    code, retry = "VersionConflict", True


class TooLarge(RequestError):
    code, status = "TooLarge", 413


class RangeNotSatisfiable(RequestError):
    code, status = "RangeNotSatisfiable", 416


class Unsatisfiable(RequestError):
    code, status = "Unsatisfiable", 422


class TryLater(LeptonError):
    code, status, retry = "TryLater", 503, True


class TooManyRequests(TryLater):
    code, status = "TooManyRequests", 429


class Unavailable(TryLater):
    code, status = "Unavailable", 503


class StaleEpoch(TryLater):
    code, status = "StaleEpoch", 503


class StorageFull(TryLater):
    code, status = "StorageFull", 507


class Internal(LeptonError):
    """Also what a client raises for an answer it cannot read."""


def from_wire(status: int, body: object) -> LeptonError:
    """The error an HTTP answer stands for: by its code, else by its status, else `Internal`."""
    fields = body if isinstance(body, dict) else {}
    message = str(fields.get("message") or f"the server answered with status {status}")
    hint = str(fields.get("hint") or "is this the URL of a Lepton workspace?")
    kinds = _below(LeptonError)
    by_code = {kind.code: kind for kind in kinds}
    # The most general of this module: a status means the same whatever else is imported.
    by_status = {kind.status: kind for kind in reversed(kinds) if kind.__module__ == __name__}
    kind = by_code.get(str(fields.get("code"))) or by_status.get(status, Internal)
    error = kind(message, hint=hint)
    data = fields.get("data")
    error.data = data if isinstance(data, dict) else {}
    return error


def _below(kind: type[LeptonError]) -> list[type[LeptonError]]:
    """All its subclasses, each before its own."""
    return [below for child in kind.__subclasses__() for below in (child, *_below(child))]


def first_line(error: Exception) -> str:
    """Of what another library says, which may be a page; its class where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
