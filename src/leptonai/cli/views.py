"""How the things that several commands show are shown."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

import click

from leptonai.cli.output import age, print_table, printable, say
from leptonai.spec.quantities import show_mib

if TYPE_CHECKING:
    from leptonai.spec.explanations import Explanation
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
    click.echo(printable(f"{explanation.state}: {explanation.because}"))
    for name, value in explanation.data.items():
        shown = ", ".join(value) if isinstance(value, list) else str(value)
        click.echo(printable(f"  {name}: {shown}"))


def _milliseconds(iso: str) -> int | None:
    try:
        return int(datetime.fromisoformat(iso).timestamp() * 1_000)
    except ValueError:
        return None
