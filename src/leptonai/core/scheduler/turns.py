"""Whose turn it is: the queue in the order in which a decision goes through it.

Lanes are opened only when it is their turn, so what waits behind others costs nothing.
"""

from collections import Counter
from dataclasses import dataclass
from heapq import heappop, heappush

from leptonai.core.scheduler.index import Lane, LaneKey
from leptonai.core.scheduler.ordering import rank, urgent_at_ms
from leptonai.core.scheduler.trial import Trial
from leptonai.core.scheduler.values import Gang, Running

# Who goes first: priority; urgent or not; standing to quotas; share; rank, or since when it is
# urgent; queued at; id.
Turn = tuple[int, int, int, float, float, int, str]


@dataclass(frozen=True, slots=True)
class Unopened:
    """Gangs of a lane that are not urgent: nobody has looked at them yet."""

    lane: Lane


@dataclass(slots=True)
class Line:
    """Gangs of a lane, one after the other."""

    lane: Lane
    user: str | None  # whose they are; None: those that are urgent
    seen: int = 0  # how many of them had their turn


Source = Unopened | Line | Running  # where the next gang comes from; of those that run: itself


class Turns:
    def __init__(self, trial: Trial) -> None:
        self._trial = trial
        self._policy = trial.policy
        self._heap: list[tuple[Turn, int, Source]] = []
        self._pushed = 0
        self.settled: set[str] = set()  # gangs of the queue that had their turn
        self._settled_of: Counter[LaneKey] = Counter()

    def push(self, source: Source) -> None:
        if isinstance(source, Unopened):  # before all its gangs that are not urgent
            turn: Turn = (-source.lane.priority, 1, -1, 0.0, 0.0, 0, "")
        elif (gang := self.first(source)) is not None:
            turn = self.turn(gang, source)
        else:
            return
        self._pushed += 1
        heappush(self._heap, (turn, self._pushed, source))

    def pop(self) -> tuple[Turn, Source] | None:
        if not self._heap:
            return None
        turn, _, source = heappop(self._heap)
        return turn, source

    def settle(self, gang: Gang, line: Line) -> None:
        """It had its turn, and the next of its line has its own."""
        self.settled.add(gang.id)
        self._settled_of[line.lane.key] += 1
        self.push(line)

    def left_of(self, lane: Lane) -> int:
        """How many of it had no turn."""
        return len(lane.by_urgency) - self._settled_of[lane.key]

    def first(self, source: Line | Running) -> Gang | None:
        """The first of a source that has not had its turn."""
        if isinstance(source, Running):
            return source.gang
        urgent, settled = source.user is None, self.settled
        line = source.lane.by_urgency if source.user is None else source.lane.by_rank[source.user]
        while source.seen < len(line):
            entry = line[source.seen]
            if urgent and entry[0] > self._trial.now_ms:
                return None
            if entry[-1] not in settled:
                return self._trial.index.waiting[str(entry[-1])]
            source.seen += 1
        return None

    def turn(self, gang: Gang, source: Line | Running) -> Turn:
        """Of the first of a source."""
        if isinstance(source, Running):
            return turn_of_running(source, self._trial)
        stands = self._trial.standing(gang)
        if source.user is None:
            urgent_at, id = source.lane.by_urgency[source.seen]
            return (-gang.priority, 0, stands, 0.0, urgent_at, gang.queued_at_ms, id)
        by, queued_at_ms, id = source.lane.by_rank[source.user][source.seen]
        share = self._trial.share(source.user) if self._policy.fair else 0.0
        return (-gang.priority, 1, stands, share, by, queued_at_ms, id)


def turn_of_running(running: Running, trial: Trial) -> Turn:
    """Were it to ask for its room anew."""
    gang, ran_ms, policy = running.gang, trial.ran_ms(running), trial.policy
    stands = trial.standing(gang)
    urgent_at = urgent_at_ms(gang, ran_ms, policy)
    if urgent_at <= trial.now_ms:
        return (-gang.priority, 0, stands, 0.0, urgent_at, gang.queued_at_ms, gang.id)
    by = rank(gang, ran_ms, policy, trial.index.gpus)
    share = trial.share(gang.user) if policy.fair else 0.0
    return (-gang.priority, 1, stands, share, by, gang.queued_at_ms, gang.id)
