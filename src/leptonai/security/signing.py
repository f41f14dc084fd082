"""Tokens that are stored nowhere: each carries what it says, and our signature under it."""

import base64
import hashlib
import hmac

from leptonai.security.keys import derive


class Signed:
    """Tokens of one purpose; one of another purpose is never taken for one of these."""

    def __init__(self, key: bytes, prefix: str, purpose: str) -> None:
        self._prefix = prefix
        self._key = derive(key, purpose)

    def token(self, said: str) -> str:
        """Whoever has it can read `said`."""
        subject = said.encode()
        return f"{self._prefix}{_text(subject)}.{_text(self._signature(subject))}"

    def read(self, token: str) -> str | None:
        """What it says, or None where the signature is not ours."""
        body, dot, signature = token.removeprefix(self._prefix).partition(".")
        if not token.startswith(self._prefix) or not dot:
            return None
        try:
            subject = _bytes(body)
            signed = hmac.compare_digest(self._signature(subject), _bytes(signature))
            return subject.decode() if signed else None
        except ValueError:
            return None

    def _signature(self, subject: bytes) -> bytes:
        return hmac.new(self._key, subject, hashlib.sha256).digest()


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _bytes(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
