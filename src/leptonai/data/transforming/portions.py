"""How the chunks of a transformation are divided among the workers of a job."""

from collections.abc import Sequence

MAX_PORTIONS = 256  # of one transformation: the job's run keeps each by a name


def portions(chunks: int) -> list[range]:
    """Chunks that are kept together, whole or not at all. They do not depend on the workers: who
    goes on where others were killed finds what these had kept."""
    count = min(chunks, MAX_PORTIONS)
    return [range(chunks * at // count, chunks * (at + 1) // count) for at in range(count)]


def name_of(portion: range) -> str:
    return f"chunks-{portion.start:05d}-{portion.stop - 1:05d}"


def of_worker(every: Sequence[range], rank: int, workers: int) -> Sequence[range]:
    """One after the other in turn, so that each worker reads some of everywhere."""
    return every[rank::workers]
