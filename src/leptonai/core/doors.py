"""Words that let a browser in for a while: signed, and good for one purpose and one door alone."""

import hashlib
import hmac
import re

TICKET_S = 60  # from its making until a browser must have used it, once
COOKIE_S = 12 * 3_600
COOKIE = b"lepton_door"
LOGIN_PATH = b"/.login"  # below the door's own path; `ticket` in the query
_WORD = re.compile(r"([0-9]{10,12})\.([0-9a-f]{32})\.([0-9a-f]{64})", re.ASCII)


def ticket(key: str, expires_s: int, nonce: str) -> str:
    """For a link that is opened once. `nonce` is 32 random hex digits."""
    return _signed(key, "ticket", expires_s, nonce)


def cookie(key: str, expires_s: int, nonce: str) -> str:
    return _signed(key, "cookie", expires_s, nonce)


def read_ticket(key: str, text: str, now_s: float) -> tuple[int, str] | None:
    """When it ends, and its nonce, by which its second use is known; None where it is no good."""
    return _read(key, "ticket", text, now_s)


def is_cookie(key: str, text: str, now_s: float) -> bool:
    return _read(key, "cookie", text, now_s) is not None


def _signed(key: str, purpose: str, expires_s: int, nonce: str) -> str:
    said = f"{expires_s}.{nonce}"
    signature = hmac.new(key.encode(), f"{purpose}.{said}".encode(), hashlib.sha256)
    return f"{said}.{signature.hexdigest()}"


def _read(key: str, purpose: str, text: str, now_s: float) -> tuple[int, str] | None:
    match = _WORD.fullmatch(text)
    if match is None or not key:
        return None
    expires_s, nonce = int(match[1]), match[2]
    good = hmac.compare_digest(text, _signed(key, purpose, expires_s, nonce))
    return (expires_s, nonce) if good and now_s < expires_s else None
