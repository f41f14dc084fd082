"""Ports that nobody listens on, for programs that a test starts and tells theirs."""

import itertools
import secrets
import socket

# Below those that the system itself gives to whoever asks for any: else somebody may be given the
# same one before the program has begun to listen.
LOWEST, HIGHEST = 12_000, 20_000
_turn = itertools.count(secrets.randbelow(HIGHEST - LOWEST))  # another one in each process of tests


def a_free_port() -> int:
    """Another one each time."""
    for turn in itertools.islice(_turn, HIGHEST - LOWEST):
        port = LOWEST + turn % (HIGHEST - LOWEST)
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
            return port
    raise AssertionError("every port is taken")
