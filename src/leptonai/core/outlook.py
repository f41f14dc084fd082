"""What the scheduler says of something that waits, or would, in the words of its users."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from msgspec.structs import replace

from leptonai.core.resources import MIB, MILLIS, Needs
from leptonai.core.scheduler.alternatives import Alternative, AlternativeKind
from leptonai.core.scheduler.forecast import Start
from leptonai.core.scheduler.outlook import Outlook
from leptonai.core.scheduler.reasons import amount_words
from leptonai.core.scheduler.values import Gang, Place, Quota, Reason
from leptonai.spec import explanations as wire
from leptonai.spec.explanations import Explanation

MAX_NAMED = 3  # of a list, in words
PRIORITY_LEVELS = ((7_000, "high"), (4_000, "mid"), (0, "low"))


@dataclass(frozen=True, slots=True)
class Named:
    """A workload as its users know it; without a name, to who may not read it."""

    kind: str  # job, endpoint
    name: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.name}" if self.name else f"another's {self.kind}"


NameOf = Callable[[str], Named]  # by the gang's id


def explained(plain: Explanation, outlook: Outlook, gang: Gang, name_of: NameOf) -> Explanation:
    """An explanation of something that waits, with all that the scheduler says of it.

    Args:
        plain: its state.
        gang: as it was asked for.
        name_of: what another gang is called, to whoever asks.
    """
    if outlook.place is not None:
        preempts = [str(name_of(each.gang)) for each in outlook.preempts]
        return replace(
            plain,
            code="now",
            because=f"there is room for it now: {_where(outlook.place)}"
            + (f", once {_names(preempts)} has stopped for it" if preempts else ""),
            places=_placements(outlook.place),
            preempts=preempts,
        )
    assert outlook.reason is not None and outlook.start is not None
    reason = outlook.reason
    held_by = [_holder(reason, name_of(holder.gang), holder.amount) for holder in reason.held_by]
    return replace(
        plain,
        code=reason.code,
        because=because(reason, name_of),
        data=dict(reason.data),
        held_by=held_by,
        start=_start(outlook.start, name_of),
        alternatives=[_alternative(each, gang, name_of) for each in outlook.alternatives],
    )


def because(reason: Reason, name_of: NameOf) -> str:
    """With the names of others, where they may be told."""
    if reason.behind and (behind := name_of(reason.behind)).name:
        return f"waits behind {behind}, which goes first and needs the same room"
    return reason.text


def _holder(reason: Reason, who: Named, amount: int) -> wire.Holder:
    resource = str(reason.data["resource"])
    return wire.Holder(
        kind=who.kind,
        name=who.name,
        resource=resource,
        amount=amount,
        holds=amount_words(resource, amount),
    )


def _start(start: Start, name_of: NameOf) -> wire.EstimatedStart:
    return wire.EstimatedStart(
        expected_at=start.expected_at_ms,
        earliest_at=start.earliest_at_ms,
        latest_at=start.latest_at_ms,
        because=_basis(start, name_of),
    )


def _basis(start: Start, name_of: NameOf) -> str:
    unknown = _names([str(name_of(gang)) for gang in start.unknown])
    if start.expected_at_ms is None and unknown:
        return f"nothing says how long {unknown} will run; a job can, with --estimate"
    if start.expected_at_ms is None:
        if start.earliest_at_ms is not None:
            return "what comes after that was not looked at any more"
        return "what it waits for does not end by itself"
    parts = []
    if start.by_estimate:
        parts.append(f"{_count(start.by_estimate, 'job')} with an estimate")
    if start.by_history:
        parts.append(f"{_count(start.by_history, 'job')} like earlier ones")
    text = f"after the end of {' and '.join(parts)}" if parts else "once it is its turn"
    if start.by_pace:
        text = "many go before it: concluded, roughly, from how much work they are"
    if unknown and start.latest_at_ms is None:
        text += f"; nothing says how long {unknown} will run"
    return text


def _count(many: int, noun: str) -> str:
    return f"{many} {noun}{'' if many == 1 else 's'}"


def _names(names: list[str]) -> str:
    shown = ", ".join(names[:MAX_NAMED])
    return shown if len(names) <= MAX_NAMED else f"{shown} and {len(names) - MAX_NAMED} more"


def _where(place: Place) -> str:
    by_node: dict[str, list[int]] = {}
    for to in place.assignments:
        by_node.setdefault(to.node, []).extend(to.gpus)
    parts = []
    for node, gpus in by_node.items():
        devices = ", ".join(map(str, sorted(set(gpus))))
        parts.append(f"{node} (GPU {devices})" if gpus else node)
    return "on " + _names(parts)


def _placements(place: Place) -> list[wire.Placement]:
    return [
        wire.Placement(worker=worker, node=to.node, gpus=list(to.gpus))
        for worker, to in enumerate(place.assignments)
    ]


# --- what would start it now ---------------------------------------------------------------------


def _alternative(found: Alternative, asked: Gang, name_of: NameOf) -> wire.Alternative:
    text, spec = _change(found, asked)
    if asked.lasting:  # an endpoint's spec has these one level further down
        queue = {name: spec[name] for name in spec if name == "queue_config"}
        rest = {name: spec[name] for name in spec if name not in queue}
        spec = {**queue, **({"resource_requirement": rest} if rest else {})}
    preempts = [str(name_of(each.gang)) for each in found.preempts]
    if preempts:
        text += f"; {_names(preempts)} would stop for it"
    return wire.Alternative(kind=found.kind, text=text, spec=spec, preempts=preempts)


def _change(found: Alternative, asked: Gang) -> tuple[str, dict[str, Any]]:
    """In words, and as a merge patch of the spec."""
    changed = found.gang
    before, after = asked.workers[0].needs, changed.workers[0].needs
    match found.kind:
        case AlternativeKind.AFFINITY:
            return _other_nodes(changed)
        case AlternativeKind.GPU_TYPE:
            return (
                f"ask for {after.gpu_type} GPUs instead of {before.gpu_type}",
                {"accelerator_type": after.gpu_type},
            )
        case AlternativeKind.SEGMENTS:
            return "let its workers be behind different switches", {"segment_config": None}
        case AlternativeKind.SIZE:
            return _smaller(before, after)
        case AlternativeKind.WORKERS:
            many = len(changed.least)
            if changed.min_workers:
                return f"make do with {many} of its workers", {"min_workers": many}
            return (
                f"ask for {_count(many, 'worker')} instead of {len(asked.workers)}",
                {"completions": many, "parallelism": many},
            )
        case AlternativeKind.GPUS:
            gpus = after.gpus * after.gpu_millis / MILLIS
            instead = before.gpus * before.gpu_millis / MILLIS
            each = " for each worker" if len(asked.workers) > 1 else ""
            return (
                f"ask for {gpus:g} GPU{'s' if gpus > 1 else ''} instead of {instead:g}{each}",
                {"accelerator_num": gpus},
            )
        case AlternativeKind.PREEMPTIBLE:
            return (
                "let it be preempted, so that it may borrow what is idle",
                {"queue_config": {"can_be_preempted": True}},
            )
        case AlternativeKind.PREEMPTING:
            return "let it preempt", {"queue_config": {"can_preempt": True}}
        case AlternativeKind.PRIORITY:
            level = next(name for least, name in PRIORITY_LEVELS if changed.priority >= least)
            name = f"{level}-{changed.priority}"
            return f"give it the priority {name}", {"queue_config": {"priority_class": name}}
        case AlternativeKind.QUOTA:
            assert found.quota is not None
            return _more_quota(found.quota), {}


def _other_nodes(changed: Gang) -> tuple[str, dict[str, Any]]:
    if changed.allowed_nodes or changed.allowed_groups:
        groups = sorted(changed.allowed_groups)
        return (
            f"let it use the node group {_names(groups)}",
            {
                "affinity": {
                    "allowed_dedicated_node_groups": groups,
                    "allowed_nodes_in_node_group": sorted(changed.allowed_nodes) or None,
                }
            },
        )
    return "let it use all nodes", {"affinity": None}


def _smaller(before: Needs, after: Needs) -> tuple[str, dict[str, Any]]:
    words, spec = [], dict[str, Any]()
    if after.cpu_millis != before.cpu_millis:
        cpu = after.cpu_millis / MILLIS
        words.append(f"{cpu:g} CPU instead of {before.cpu_millis / MILLIS:g}")
        spec["cpu"] = cpu
    if after.memory_bytes != before.memory_bytes:
        less, more = (amount_words("memory_bytes", needs.memory_bytes) for needs in (after, before))
        words.append(f"{less} of memory instead of {more}")
        spec["memory"] = after.memory_bytes // MIB
    return f"ask for {' and '.join(words)}", spec


def _more_quota(quota: Quota) -> str:
    whose = f"user {quota.user}" if quota.user else f"project {quota.project}"
    limits = []
    if quota.gpus is not None:
        limits.append(amount_words("gpu_millis", round(quota.gpus * MILLIS)))
    if quota.cpu_millis is not None:
        limits.append(amount_words("cpu_millis", quota.cpu_millis))
    return f"have an admin raise the quota of {whose} to {' and '.join(limits)}"


def deadline_ms(start: Start, gang: Gang, now_ms: int) -> int | None:
    """By when a gang would be done if all went late; None if nobody knows."""
    if gang.remaining_ms is None or start.latest_at_ms is None:
        return None
    return max(now_ms, start.latest_at_ms) + gang.remaining_ms
