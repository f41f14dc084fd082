"""How samples are spread over classes. Pure."""

from collections.abc import Mapping

from leptonai.data.quality.report import Found, Skipped


def balance(counts: Mapping[str, int], of: str = "samples") -> list[Found | Skipped]:
    """
    Args:
        counts: of each class; also of those that have none.
        of: what is counted.
    """
    if not counts or not any(counts.values()):
        reason = f"there are no classes, or none has {of}"
        return [Skipped("balance", reason), Skipped("few-samples", reason)]
    largest = max(counts, key=lambda name: (counts[name], name))
    smallest = min(counts, key=lambda name: (counts[name], name))
    found: list[Found | Skipped] = [
        Found(
            "few-samples",
            count,
            f"the class {name} has {count:,} {of}",
            where=name,
            hint="collect more, or join it with another class",
        )
        for name, count in counts.items()
    ]
    if len(counts) == 1:
        what = f"all {counts[largest]:,} {of} are of one class, {largest}: there is nothing to tell"
        hint = "add what is not of it"
    else:
        what = f"{largest} has {counts[largest]:,} {of}, {smallest} has {counts[smallest]:,}"
        hint = "weigh the classes, sample the small ones more often, or collect more of them"
    # One class, or none of the smallest, is as a class that is missed by every sample.
    least = 1 if len(counts) == 1 else max(1, counts[smallest])
    ratio = counts[largest] / least
    return [*found, Found("balance", ratio, what, where=smallest, hint=hint)]
