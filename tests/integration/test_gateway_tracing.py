"""Spans reach a collector as the OpenTelemetry protocol says, and no request waits for them."""

import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from gateway_world import (
    PATIENCE_S,
    WORKSPACE_TOKEN,
    Cloud,
    Gateway,
    Replica,
    Request,
    Wire,
    answer_ok,
    eventually,
    ok,
)

from leptonai.errors import InvalidRequest
from leptonai.otlp import Collector

PATH = "/e/default/e/"
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Value(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    string_value: str | None = None
    int_value: str | None = None  # 64-bit numbers are strings


class Attribute(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    key: str
    value: Value


class Status(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    code: int


class Span(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """As trace.proto has it, for what we send of it."""

    trace_id: str
    span_id: str
    name: str
    kind: int
    start_time_unix_nano: str
    end_time_unix_nano: str
    attributes: list[Attribute]
    parent_span_id: str = ""
    status: Status = Status(0)

    @property
    def about(self) -> dict[str, Any]:
        return {
            a.key: int(a.value.int_value) if a.value.int_value else a.value.string_value
            for a in self.attributes
        }


class Scope(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    name: str


class ScopeSpans(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    scope: Scope
    spans: list[Span]


class Resource(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    attributes: list[Attribute]


class ResourceSpans(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    resource: Resource
    scope_spans: list[ScopeSpans]


class Export(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    resource_spans: list[ResourceSpans]


class Receiver:
    """A collector that takes OTLP over HTTP as JSON."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.headers: dict[str, str] = {}
        self.statuses: list[int] = []  # of the next answers; then 200
        self.posts = 0
        self._server = Replica(self._answer)
        self.url = f"http://127.0.0.1:{self._server.port}/v1/traces"
        self.close = self._server.close

    def _answer(self, wire: Wire, request: Request) -> None:
        self.posts += 1
        status = self.statuses.pop(0) if self.statuses else 200
        if status == 200:
            assert request.line == "POST /v1/traces HTTP/1.1"
            assert request.headers["content-type"] == "application/json"
            self.headers = request.headers
            export = msgspec.json.decode(request.body, type=Export)
            (resource,) = export.resource_spans
            (scope,) = resource.scope_spans
            self.spans += scope.spans
        wire.send(b"HTTP/1.1 %d X\r\nContent-Length: 2\r\n\r\n{}" % status)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


def a_cloud(own_cloud: Callable[..., Cloud], receiver: Receiver, **settings: object) -> Cloud:
    return own_cloud(collector={"url": receiver.url, **settings})


def dropped(gateway: Gateway) -> int:
    found = re.search(rb'spans_total\{outcome="dropped"\} (\d+)', gateway.ask("/metrics")[2])
    assert found is not None
    return int(found[1])


def test_a_request_is_a_span_between_its_callers_and_its_replicas(
    own_cloud: Callable[..., Cloud], receiver: Receiver
) -> None:
    cloud = a_cloud(own_cloud, receiver, headers={"x-key": "secret"})
    replica = cloud.replica()
    cloud.endpoint(replica)
    before_ns = time.time_ns()
    line = f"traceparent: 00-{TRACE}-{PARENT}-01"
    cloud.gateway.ask(PATH + "predict?key=secret", WORKSPACE_TOKEN, line)
    eventually(lambda: len(receiver.spans) == 1)
    (span,) = receiver.spans
    assert (span.trace_id, span.parent_span_id, span.kind) == (TRACE, PARENT, 2)
    assert replica.requests[0].headers["traceparent"] == f"00-{TRACE}-{span.span_id}-01"
    assert (
        before_ns
        <= int(span.start_time_unix_nano)
        <= int(span.end_time_unix_nano)
        <= time.time_ns()
    )
    assert (span.name, span.status.code) == ("GET default/e", 0)
    request_id = span.about.pop("lepton.request_id")
    assert request_id
    assert span.about | {"lepton.request_id": ""} == {
        "http.request.method": "GET",
        "url.path": "/predict",
        "http.response.status_code": 200,
        "client.address": "127.0.0.1",
        "lepton.workspace": "default",
        "lepton.endpoint": "e",
        "lepton.attempts": 1,
        "lepton.request_id": "",
        "lepton.version": "7",
        "lepton.replica": "r1",
    }
    assert receiver.headers["x-key"] == "secret"


def test_what_its_caller_does_not_record_is_not_recorded_here(
    own_cloud: Callable[..., Cloud], receiver: Receiver
) -> None:
    cloud = a_cloud(own_cloud, receiver)
    replica = cloud.replica(
        lambda wire, _: wire.send(b"HTTP/1.1 500 E\r\nContent-Length: 0\r\n\r\n")
    )
    cloud.endpoint(replica)
    unsampled = f"00-{TRACE}-{PARENT}-00"
    cloud.gateway.ask(PATH, WORKSPACE_TOKEN, f"traceparent: {unsampled}")
    cloud.gateway.ask(PATH, "wrong")  # strangers write no spans
    cloud.gateway.ask(PATH)
    eventually(lambda: len(receiver.spans) == 1)
    (span,) = receiver.spans
    assert (span.parent_span_id, span.status.code) == ("", 2)
    first, second = (request.headers["traceparent"] for request in replica.requests)
    assert first == unsampled
    assert second == f"00-{span.trace_id}-{span.span_id}-01"


def test_of_traces_that_begin_here_a_share_is_recorded(
    own_cloud: Callable[..., Cloud], receiver: Receiver
) -> None:
    cloud = a_cloud(own_cloud, receiver, share=0.25)
    replica = cloud.replica()
    cloud.endpoint(replica)
    for _ in range(40):
        cloud.gateway.ask(PATH)
    flags = [request.headers["traceparent"][-2:] for request in replica.requests]
    assert 8 <= flags.count("01") <= 12
    eventually(lambda: len(receiver.spans) == flags.count("01"))


def test_spans_wait_for_a_collector_that_is_busy_and_are_dropped_where_it_refuses(
    own_cloud: Callable[..., Cloud], receiver: Receiver
) -> None:
    cloud = a_cloud(own_cloud, receiver)
    cloud.endpoint(cloud.replica(answer_ok))
    receiver.statuses = [503]
    cloud.gateway.ask(PATH)
    eventually(lambda: len(receiver.spans) == 1)
    assert receiver.posts == 2
    receiver.statuses = [400]
    cloud.gateway.ask(PATH)
    eventually(lambda: dropped(cloud.gateway) == 1)


def test_without_a_collector_requests_are_served_all_the_same(
    own_cloud: Callable[..., Cloud], receiver: Receiver
) -> None:
    receiver.close()
    cloud = a_cloud(own_cloud, receiver)
    cloud.endpoint(cloud.replica(lambda wire, _: wire.send(ok(b"served"))))
    threads = [threading.Thread(target=cloud.gateway.ask, args=(PATH,)) for _ in range(20)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(PATIENCE_S)
    assert cloud.gateway.ask(PATH)[2] == b"served"
    eventually(lambda: "spans cannot be sent" in cloud.gateway.log.read_text())


def test_what_was_not_sent_goes_out_before_the_gateway_ends(
    own_cloud: Callable[..., Cloud], receiver: Receiver
) -> None:
    cloud = a_cloud(own_cloud, receiver)
    cloud.endpoint(cloud.replica())
    cloud.gateway.ask(PATH)
    cloud.gateway.process.terminate()
    assert cloud.gateway.process.wait(PATIENCE_S) == 0
    assert len(receiver.spans) == 1


BASE = "OTEL_EXPORTER_OTLP_ENDPOINT"


def test_the_usual_variables_name_a_collector() -> None:
    assert Collector.of({}) is None
    assert Collector.of({BASE: "http://c:4318/"}) == Collector(url="http://c:4318/v1/traces")
    assert Collector.of(
        {
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "https://c/x",
            "OTEL_EXPORTER_OTLP_HEADERS": "Authorization=Bearer%20t, x-a=b",
            "OTEL_TRACES_SAMPLER_ARG": "0.5",
        }
    ) == Collector(url="https://c/x", headers={"authorization": "Bearer t", "x-a": "b"}, share=0.5)


@pytest.mark.parametrize(
    "environ",
    [
        {BASE: "ftp://c"},
        {BASE: "http://"},
        {BASE: "http://user:secret@c"},
        {BASE: "http://c:99999"},
        {BASE: "http://c/a b"},
        {BASE: "http://c", "OTEL_EXPORTER_OTLP_HEADERS": "nonsense"},
        {BASE: "http://c", "OTEL_EXPORTER_OTLP_HEADERS": "a=b%0d%0ax"},
        {BASE: "http://c", "OTEL_TRACES_SAMPLER_ARG": "two"},
        {BASE: "http://c", "OTEL_TRACES_SAMPLER_ARG": "nan"},
    ],
)
def test_what_cannot_be_read_is_refused_without_its_secrets(environ: dict[str, str]) -> None:
    with pytest.raises(InvalidRequest) as refused:
        Collector.of(environ)
    assert "secret" not in str(refused.value)
