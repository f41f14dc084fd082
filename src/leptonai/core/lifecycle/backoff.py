"""How long to wait before the next try."""

FIRST_MS = 1_000
LONGEST_MS = 60_000


def backoff_ms(failures: int) -> int:
    """1 s after the first failure, doubling up to a minute."""
    return min(LONGEST_MS, FIRST_MS << min(max(failures, 1) - 1, 16))
