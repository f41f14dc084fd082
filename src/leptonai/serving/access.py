"""Who may ask a photon: with which token, and from pages of which origins."""

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from leptonai.serving.answers import Answer
from leptonai.serving.incoming import Fields

Lines = tuple[tuple[bytes, bytes], ...]

PREFLIGHT: Lines = (
    (b"access-control-allow-methods", b"GET, POST, OPTIONS"),
    (b"access-control-allow-headers", b"authorization, content-type, accept, traceparent"),
    (b"access-control-max-age", b"600"),
    (b"vary", b"origin"),
)


@dataclass(frozen=True, slots=True)
class Access:
    token: bytes  # b"": none is needed
    origins: tuple[bytes, ...]  # b"*": all

    def lets_in(self, method: str, path: str, fields: Fields) -> bool:
        """Health and a browser's preflight need no token."""
        if not self.token or path in ("/healthz", "/livez", "/health") or method == "OPTIONS":
            return True
        given = fields.get(b"authorization", b"").rpartition(b" ")[2]
        return hmac.compare_digest(given, self.token)

    def allowing(self, answer: Any, fields: Fields) -> Any:
        """An answer, and with it that pages of the asker's origin may read it, where they may."""
        if b"origin" in fields and type(answer) is Answer:
            return answer._replace(headers=(*answer.headers, *self.lines(fields)))
        return answer

    def lines(self, fields: Fields) -> Lines:
        """What tells a browser so."""
        origin = fields.get(b"origin")
        if origin is None:
            return ()
        if b"*" in self.origins:
            return ((b"access-control-allow-origin", b"*"),)
        if origin in self.origins:
            return ((b"access-control-allow-origin", origin),)
        return ()


def access_told(environment: Mapping[str, str]) -> Access:
    """By $LEPTON_LOCAL_DEPLOYMENT_TOKEN and $LEPTON_ALLOW_ORIGINS."""
    token = environment.get("LEPTON_LOCAL_DEPLOYMENT_TOKEN", "").encode()
    origins = environment.get("LEPTON_ALLOW_ORIGINS", "*").encode().split(b",")
    return Access(token, tuple(origins))
