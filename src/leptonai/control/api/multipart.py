"""A file in a form: ``multipart/form-data``, read as it arrives."""

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from leptonai.control.api.routing import Call
from leptonai.errors import InvalidRequest

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

MAX_PARTS = 100


async def file_in(call: Call, name: str) -> AsyncIterator[bytes]:
    """The bytes of the form's part of this name; of a body that is no form, all of it.

    What comes before and after that part is passed over.

    Raises:
        InvalidRequest: the form is damaged or cut, or has no such part.
    """
    # Not needed to start.
    from python_multipart.exceptions import FormParserError
    from python_multipart.multipart import MultipartParser, parse_options_header

    kind, options = parse_options_header(call.header("content-type"))
    if kind != b"multipart/form-data":
        async for chunk in call.chunks():
            yield chunk
        return
    reading = _Reading(name)
    try:
        parser = MultipartParser(options.get(b"boundary", b""), reading.callbacks)
        async for chunk in call.chunks():
            parser.write(chunk)
            for piece in reading.take():
                yield piece
        parser.finalize()
    except FormParserError as error:
        raise InvalidRequest(
            f"the form cannot be read: {error}", hint="Send multipart/form-data."
        ) from None
    if not reading.found or not reading.ended:
        raise InvalidRequest(
            f"the form has no whole part called {name}",
            hint=f"Send the file as the part {name} of multipart/form-data.",
        )


class _Reading:
    """What the parser tells, until it is taken."""

    def __init__(self, name: str) -> None:
        self.found = self.ended = False
        self._name = name.encode()
        self._pieces: list[bytes] = []
        self._parts = 0
        self._wanted = False
        self._header, self._value = b"", b""
        self.callbacks: MultipartCallbacks = {
            "on_part_begin": self._begin,
            "on_header_field": self._on_field,
            "on_header_value": self._on_value,
            "on_header_end": self._on_header,
            "on_part_data": self._on_data,
            "on_end": self._end,
        }

    def take(self) -> list[bytes]:
        pieces, self._pieces = self._pieces, []
        return pieces

    def _begin(self) -> None:
        self._wanted = False
        self._header = self._value = b""
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise InvalidRequest(
                f"the form has more than {MAX_PARTS} parts", hint="Send the file alone."
            )

    def _on_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _on_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header(self) -> None:
        from python_multipart.multipart import parse_options_header

        if self._header.lower() == b"content-disposition":
            _, options = parse_options_header(self._value)
            if options.get(b"name") == self._name and not self.found:
                self.found = self._wanted = True
        self._header = self._value = b""

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        if self._wanted:
            self._pieces.append(data[start:end])

    def _end(self) -> None:
        self.ended = True
