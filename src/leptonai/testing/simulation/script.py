"""What simulated programs do: written into the command of a workload, played by the cluster."""

import msgspec


class Script(msgspec.Struct, frozen=True, kw_only=True):
    """A program that runs for a while and then ends; a server never ends by itself.

    `exits` are the exit codes of its attempts in order, the last for all that follow; a negative
    one is a signal.
    """

    runs_ms: int | None = 1000  # None: until it is stopped
    exits: tuple[int, ...] = (0,)
    answers_after_ms: int | None = None  # a server: when it begins to answer on its port
    heeds_term_after_ms: int | None = 10  # None: ignores SIGTERM

    @property
    def command(self) -> tuple[str, ...]:
        return ("simulated", msgspec.json.encode(self).decode())

    def exit_of(self, attempt: int) -> int:
        return self.exits[min(attempt, len(self.exits) - 1)]


def script_of(command: tuple[str, ...]) -> Script:
    assert command[0] == "simulated", command
    return msgspec.json.decode(command[1], type=Script)
