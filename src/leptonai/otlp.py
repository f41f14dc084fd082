"""Which OpenTelemetry collector gets spans: what the variables of its specification say."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import unquote, urlsplit

import msgspec

from leptonai.errors import InvalidRequest


class Collector(msgspec.Struct, frozen=True, kw_only=True):
    """Of OpenTelemetry, and what is sent there."""

    url: str  # that takes spans
    headers: dict[str, str] = {}
    share: float = 1.0  # of the traces that begin here, how many are recorded

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Collector | None:
        """What OpenTelemetry's own variables ask for; None where no collector is named.

        Raises:
            InvalidRequest: one of them cannot be read.
        """
        url = environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "")
        base = environ.get("OTEL_EXPORTER_OTLP_ENDPOINT", "")
        if not url and not base:
            return None
        given = environ.get("OTEL_EXPORTER_OTLP_TRACES_HEADERS") or environ.get(
            "OTEL_EXPORTER_OTLP_HEADERS", ""
        )
        headers = {}
        for part in filter(None, (part.strip() for part in given.split(","))):
            name, equals, value = part.partition("=")
            value = unquote(value.strip())
            if not equals or not name.strip().isascii() or set(name + value) & set("\r\n"):
                raise InvalidRequest(
                    "OTEL_EXPORTER_OTLP_HEADERS cannot be read",
                    hint="use NAME=VALUE, several with commas between them",
                )
            headers[name.strip().lower()] = value
        share_text = environ.get("OTEL_TRACES_SAMPLER_ARG", "1")
        try:
            share = float(share_text)
        except ValueError:
            share = -1.0
        if not 0 <= share <= 1:
            raise InvalidRequest(
                f"OTEL_TRACES_SAMPLER_ARG: {share_text[:40]!r} is no share",
                hint="use a number from 0 to 1",
            )
        url = url or base.rstrip("/") + "/v1/traces"
        check_url(url)
        return cls(url=url, headers=headers, share=share)


def check_url(url: str) -> None:
    """
    Raises:
        InvalidRequest: no collector is there.
    """
    try:
        parts = urlsplit(url)
        fine = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        fine = False
    if not fine or parts.username is not None or not url.isascii() or set(url) & set("\r\n "):
        raise InvalidRequest(
            "the OTLP endpoint is no address of a collector",
            hint="use http://HOST:4318; what lets you in belongs in OTEL_EXPORTER_OTLP_HEADERS",
        )
