"""Every bound of the gateway; those that a test must shorten are fields of `Limits`."""

from dataclasses import dataclass

# Of a request or a response: target, names and values together. One field that is still coming may
# be larger by one read of the socket before that is noticed.
MAX_HEAD_BYTES = 64 * 1024
MAX_HEADERS = 128  # of a request or a response
MAX_TOKEN_BYTES = 4096  # of an Authorization header that we would hash
MAX_REQUEST_ID_BYTES = 128  # a longer one from a client is replaced
MAX_DIGESTS = 4_096  # of tokens that opened something: hashed once
MAX_ANSWER_HEADS = 1_024  # of replicas, remembered with what they mean …
MAX_KNOWN_HEAD_BYTES = 2_048  # … if they are no larger; of a client's connection, its last one
MAX_PIPELINED = 64  # requests of one client that wait behind the one being answered
BODY_BUFFER_BYTES = 64 * 1024  # read ahead of a replica that does not take it yet
MAX_REPLAY_BYTES = 1024 * 1024  # of a request that is kept so that it can be sent again
SMALL_REPLAY_BYTES = 64 * 1024  # that any request may keep …
MAX_LARGE_REPLAYS = 256  # … and how many at a time may keep more
MAX_IDLE_PER_REPLICA = 128  # connections kept open to one replica
# A server's queue of connections that it has not accepted may be as short as 5, and one more waits
# for a second: so few are opened at a time, until they were answered on or have stood for a moment.
MAX_UNPROVEN = 5
PROVEN_S = 0.02
CONNECT_S = 2.0  # a replica is on the same network: slower is as good as dead
LINGER_S = 2.0  # how long unread input is swallowed, so that the client can read its answer
MAX_SHADOWS = 64  # copies of one endpoint's requests that are under way at a time
PROGRESS_S = 5.0  # between two comments to a client that waits for a replica
DRAIN_IDLE_S = 1.0  # that an idle client keeps its connection to a gateway that is going away
SWEEP_S = 1.0  # how often deadlines are looked at, while there is a connection at all
MAX_LOG_LINES_PER_S = 10  # the rest is counted, not written


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    connections: int = 12_000  # of clients, idle ones included
    held_per_endpoint: int = 10_000  # requests that wait for a first replica, whatever is asked
    hold_s: float = 3_600.0  # that one waits at most, whatever is asked
    head_s: float = 10.0  # from the first byte of a head to its last
    idle_s: float = 75.0  # of a client's connection between requests
    pool_idle_s: float = 3.0  # of a replica's; under the 5 s after which uvicorn closes
    eject_s: float = 1.0  # that a replica is left alone after a first failure
    drain_s: float = 30.0  # that requests may still take after SIGTERM
