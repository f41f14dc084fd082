"""What is taken for known is what a parser would make of it."""

from typing import Any

import httptools
from hypothesis import example, given
from hypothesis import strategies as st

from leptonai.gateway.head import ResponseHead
from leptonai.gateway.known_heads import AnswerHeads, KnownRequest
from leptonai.gateway.limits import MAX_ANSWER_HEADS

REQUEST = b"POST /e/w/n/p HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nAccept: */*\r\n\r\n{}"
ANSWER = b"HTTP/1.1 200 OK\r\ndate: d\r\ncontent-length: 2\r\ncontent-type: t\r\n\r\n{}"


class Read:
    """What a parser tells of the bytes that it gets."""

    def __init__(self, data: bytes, parser: Any) -> None:
        self.fields: list[tuple[bytes, bytes]] = []
        self.body = b""
        self.ended = 0
        self.reason = self.target = b""
        self.parser = parser(self)
        self.failed = False
        try:
            self.parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.failed = True

    def on_url(self, target: bytes) -> None:
        self.target += target

    def on_status(self, reason: bytes) -> None:
        self.reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name, value))

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_message_complete(self) -> None:
        self.ended += 1

    @property
    def but_for_the_length(self) -> list[tuple[bytes, bytes]]:
        return [field for field in self.fields if field[0].lower() != b"content-length"]


@st.composite
def messages(draw: st.DrawFn, start: bytes) -> bytes:
    names = st.sampled_from(
        [b"content-length", b"Content-Length", b"CONTENT-LENGTH", b"x-content-length", b"x"]
    )
    lines = draw(
        st.lists(
            st.tuples(names, st.sampled_from([b": ", b":", b":  "]), st.sampled_from(VALUES)),
            max_size=4,
        )
    )
    head = b"\r\n".join([start, *(b"".join(line) for line in lines)])
    return head + b"\r\n\r\n" + draw(st.sampled_from([b"", b"a", b"abc", b"\r\n\r\n", b"0" * 12]))


VALUES = [b"0", b"1", b"3", b"4", b"12", b"012", b"3 ", b"+3", b"3\r\nx: 4", b"99999999999999"]
requests = messages(b"GET /a HTTP/1.1\r\nhost: h")
answers = messages(b"HTTP/1.1 200 OK")


@given(requests, requests)
@example(REQUEST, REQUEST.replace(b": 2", b": 14").replace(b"{}", b'{"x": "y", 1}!'))
@example(REQUEST, REQUEST + REQUEST)
def test_a_request_with_a_known_head_is_what_a_parser_makes_of_it(
    first: bytes, then: bytes
) -> None:
    read = Read(first, httptools.HttpRequestParser)
    if read.failed or read.ended != 1:
        return
    has_length = read.fields != read.but_for_the_length
    known = KnownRequest.of(first, has_length=has_length)
    found = None if known is None else known.body(then)
    if found is None:
        return
    again = Read(then, httptools.HttpRequestParser)
    assert not again.failed and again.ended == 1
    assert again.but_for_the_length == read.but_for_the_length
    assert again.target == read.target
    length, body = found
    assert body == again.body
    assert length is None if not has_length else int(length or b"") == len(body)


@given(answers, answers)
@example(ANSWER, ANSWER.replace(b": 2", b": 4").replace(b"{}", b"null"))
@example(ANSWER.replace(b"date: d", b"connection: keep-alive"), ANSWER)
def test_an_answer_with_a_known_head_is_what_a_parser_makes_of_it(
    first: bytes, then: bytes
) -> None:
    read = Read(first, httptools.HttpResponseParser)
    if read.failed or read.ended != 1 or not read.parser.should_keep_alive():
        return
    heads = AnswerHeads()
    heads.learn(first, 200, ResponseHead(200, read.reason, read.fields).encode(b""))
    found = heads.of(then)
    if found is None:
        return
    again = Read(then, httptools.HttpResponseParser)
    assert not again.failed and again.ended == 1
    ours = ResponseHead(200, again.reason, again.fields).encode(b"") + again.body
    assert found[0] == 200
    assert Read(found[1], httptools.HttpResponseParser).fields == (
        Read(ours, httptools.HttpResponseParser).fields
    )
    assert found[1].endswith(b"\r\n\r\n" + again.body)


def test_the_next_request_with_another_length_needs_no_reading() -> None:
    known = KnownRequest.of(REQUEST, has_length=True)
    assert known is not None
    assert known.body(REQUEST) == (b"2", b"{}")
    assert known.body(REQUEST.replace(b": 2", b": 10").replace(b"{}", b"0" * 10)) == (
        b"10",
        b"0" * 10,
    )
    for other in (
        REQUEST + b"x",
        REQUEST[:-1],
        REQUEST.replace(b"*/*", b"a/b"),
        REQUEST.replace(b": 2", b": -2"),
        REQUEST.replace(b"/p", b"/q"),
    ):
        assert known.body(other) is None


def test_a_head_that_reaches_the_client_changed_is_remembered_as_it_was_changed() -> None:
    heads = AnswerHeads()
    came = ANSWER.replace(b"date: d", b"connection: keep-alive")
    heads.learn(came, 200, ANSWER[:-2].replace(b"date: d\r\n", b""))
    assert heads.of(came) == (200, ANSWER.replace(b"date: d\r\n", b""))
    longer = came.replace(b": 2", b": 4").replace(b"{}", b"null")
    assert heads.of(longer) == (
        200,
        ANSWER.replace(b"date: d\r\n", b"").replace(b": 2", b": 4").replace(b"{}", b"null"),
    )


def test_so_many_heads_are_remembered_and_no_more() -> None:
    heads = AnswerHeads()
    each = [ANSWER.replace(b": d", b": %d" % n) for n in range(MAX_ANSWER_HEADS + 1)]
    for answer in each:
        heads.learn(answer, 200, answer[:-2])
    assert heads.of(each[0]) is None
    assert heads.of(each[-1]) == (200, each[-1])
