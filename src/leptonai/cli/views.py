"""How the things that several commands show are shown."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

import click

from leptonai.cli.output import age, print_json, print_table, printable, say, span
from leptonai.spec.quantities import show_mib

if TYPE_CHECKING:
    from leptonai.spec.endpoints import LeptonDeployment
    from leptonai.spec.explanations import EstimatedStart, Explanation
    from leptonai.spec.jobs import LeptonJob
    from leptonai.spec.replicas import LeptonEvent, Replica


class Resourced(Protocol):
    """What asks for an amount of machine."""

    @property
    def resource_shape(self) -> str | None: ...
    @property
    def cpu(self) -> float | None: ...
    @property
    def memory(self) -> int | None: ...
    @property
    def accelerator_type(self) -> str | None: ...
    @property
    def accelerator_num(self) -> float | None: ...


def resources_text(asked: Resourced) -> str:
    """What a worker asks for: "2 CPU, 4GiB, 1 GPU A100"."""
    parts = [asked.resource_shape or ""]
    if asked.cpu is not None:
        parts.append(f"{asked.cpu:g} CPU")
    if asked.memory is not None:
        parts.append(show_mib(asked.memory))
    if asked.accelerator_num:
        parts.append(f"{asked.accelerator_num:g} GPU {asked.accelerator_type or ''}".strip())
    return ", ".join(part for part in parts if part)


def state_of(each: LeptonDeployment) -> str:
    return str(each.status.phase or each.status.state) if each.status else ""


def print_events(events: Sequence[LeptonEvent]) -> None:
    if not events:
        say("no events")
        return
    rows = [
        (
            age(_milliseconds(event.last_observed_time)),
            event.type,
            event.reason,
            event.message + (f" (x{event.count})" if event.count > 1 else ""),
        )
        for event in events
    ]
    print_table(("AGE", "TYPE", "REASON", "MESSAGE"), rows)


def print_replicas(replicas: Sequence[Replica]) -> None:
    rows = []
    for replica in replicas:
        status = replica.status
        ended = status is not None and status.exit_code is not None
        rows.append(
            (
                replica.id,
                (status.state or "") if status else "",
                (status.node.name if status.node else "") if status else "",
                age(status.started_at) if status else "",
                str(status.exit_code) if status and ended else "",
                (status.reason or "") if status else "",
            )
        )
    print_table(("REPLICA", "STATE", "NODE", "STARTED", "EXIT", "REASON"), rows)


def print_explanation(explanation: Explanation) -> None:
    """Why, who holds it, until when, and what would change that."""
    click.echo(printable(f"{explanation.state}: {explanation.because}"))
    if explanation.start is None:
        for name, value in explanation.data.items():
            shown = ", ".join(value) if isinstance(value, list) else str(value)
            click.echo(printable(f"  {name}: {shown}"))
        return
    _print_outlook(explanation)


def print_dry_run(would_be: LeptonJob | LeptonDeployment, output: str) -> None:
    name, explanation = would_be.metadata.name or "", would_be.explanation
    if output == "json":
        print_json(would_be)
        return
    if explanation is None:
        return
    if explanation.places:
        click.echo(printable(f"{name} would start now: {explanation.because}"))
        rows = [
            (str(place.worker), place.node, ", ".join(map(str, place.gpus)))
            for place in explanation.places
        ]
        click.echo()
        print_table(("WORKER", "NODE", "GPUS"), rows)
        return
    click.echo(printable(f"{name} would wait: {explanation.because}"))
    if explanation.start is not None:
        _print_outlook(explanation)


def _print_outlook(explanation: Explanation) -> None:
    if explanation.held_by:
        click.echo()
        rows = [
            (holder.holds, holder.kind, holder.name or "(of somebody else)")
            for holder in explanation.held_by
        ]
        print_table(("HELD", "BY", "NAME"), rows)
    assert explanation.start is not None
    click.echo()
    click.echo(printable(start_text(explanation.start, int(time.time() * 1_000))))
    if explanation.alternatives:
        click.echo("\nWould start it now:")
        for number, each in enumerate(explanation.alternatives, 1):
            flags = flags_text(each.spec)
            click.echo(printable(f"  {number}. {each.text}" + (f"   {flags}" if flags else "")))


def start_text(start: EstimatedStart, now_ms: int) -> str:
    """ "Starts in about 2h (between 40m and 5h): …"."""

    def ahead(at_ms: int) -> str:
        return span((at_ms - now_ms) / 1_000)

    early, expected, late = start.earliest_at, start.expected_at, start.latest_at
    if expected is None:
        text = (
            "Nobody knows when it starts"
            if early is None
            else f"Does not start within {ahead(early)}"
        )
    elif early == expected == late:
        text = f"Starts in {ahead(expected)}"
    else:
        text = f"Starts in about {ahead(expected)}"
        if early is not None and late is not None:
            text += f" (between {ahead(early)} and {ahead(late)})"
        elif early is not None:
            text += f" (not within {ahead(early)})"
    return f"{text}: {start.because}"


def flags_text(spec: Mapping[str, Any]) -> str:
    """The options of `create` that ask for this change; "" where there are none."""
    flags = []
    fields = {
        **spec,
        **(spec.get("resource_requirement") or {}),
        **(spec.get("queue_config") or {}),
    }
    for field, flag in _FLAGS.items():
        if field in fields:
            value = fields[field]
            text = f"{value}MiB" if field == "memory" else value
            flags.append(f"{flag} {text:g}" if isinstance(text, float) else f"{flag} {text}")
    return " ".join(flags)


_FLAGS = {
    "accelerator_type": "--gpu-type",
    "accelerator_num": "--gpu",
    "cpu": "--cpu",
    "memory": "--memory",
    "completions": "--num-workers",
    "priority_class": "--priority",
}


def _milliseconds(iso: str) -> int | None:
    try:
        return int(datetime.fromisoformat(iso).timestamp() * 1_000)
    except ValueError:
        return None
