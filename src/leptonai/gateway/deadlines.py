"""How long a caller still waits, told from hop to hop. Pure."""

HEADER = b"x-lepton-timeout-ms"
MAX_DIGITS = 9


def timeout_ms(value: bytes) -> int | None:
    """What the header says; None if that is nothing."""
    value = value.strip(b" \t")
    if value.isdigit() and len(value) <= MAX_DIGITS:
        return int(value)
    return None


def with_time_left(request: bytes, left_ms: int) -> bytes:
    """A request's head with the header in its second line, in place of one that is there."""
    start = request.index(b"\r\n") + 2
    rest = start
    if request.startswith(HEADER, start):
        rest = request.index(b"\r\n", start) + 2
    return b"%b%b: %d\r\n%b" % (request[:start], HEADER, left_ms, request[rest:])
