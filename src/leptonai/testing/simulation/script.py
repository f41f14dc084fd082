"""What simulated programs do: written into the command of a workload, played by the fake engine."""

import msgspec

from leptonai.ports.engine import Attempt
from leptonai.testing import fake_engine


class Program(msgspec.Struct, frozen=True, kw_only=True):
    """A program that runs for a while and then ends; a server never ends by itself.

    `exits` are the exit codes of its attempts in order, the last for all that follow; 137 is a
    SIGKILL, as shells say it.
    """

    runs_s: float | None = 1  # None: until it is stopped
    exits: tuple[int, ...] = (0,)
    ready_after_s: float | None = None  # a server: when it begins to answer on its port
    heeds_term_after_s: float | None = 0.01  # None: ignores SIGTERM

    @property
    def command(self) -> list[str]:
        return ["simulated", msgspec.json.encode(self).decode()]


def script_of(attempt: Attempt) -> fake_engine.Script:
    # The last: a node of a Ray cluster has its user's command behind its own.
    program = msgspec.json.decode(attempt.command[-1], type=Program)
    number = int(attempt.id.rpartition(".")[2])
    return fake_engine.Script(
        seconds=program.runs_s,
        code=program.exits[min(number, len(program.exits) - 1)],
        ready_after_s=program.ready_after_s,
        ignores_term=program.heeds_term_after_s is None,
        ends_after_term_s=program.heeds_term_after_s or 0.0,
    )
