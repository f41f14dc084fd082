"""How a job is shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from leptonai.cli.output import age, span
from leptonai.cli.views import resources_text

if TYPE_CHECKING:
    from leptonai.spec.jobs import LeptonJob


def row_of(each: LeptonJob) -> tuple[str, ...]:
    status = each.status
    if status is None:
        return (each.metadata.id or "", "", "", age(each.metadata.created_at), "", "")
    busy = status.ready if status.active else status.succeeded
    return (
        each.metadata.id or "",
        status.state,
        f"{busy}/{each.spec.workers}",
        age(each.metadata.created_at),
        _ran(each),
        status.message,
    )


def _ran(each: LeptonJob) -> str:
    status = each.status
    if status is None or status.completion_time is None or each.metadata.created_at is None:
        return ""
    return span((status.completion_time - each.metadata.created_at) / 1_000)


def facts_of(each: LeptonJob) -> list[tuple[str, str]]:
    import shlex

    spec, status = each.spec, each.status
    return [
        ("id", each.metadata.id or ""),
        ("name", each.metadata.name or ""),
        ("state", str(status.state) if status else ""),
        ("message", status.message if status else ""),
        ("exit code", str(status.exit_code) if status and status.exit_code is not None else ""),
        ("command", shlex.join(spec.container.command or [])),
        ("workers", str(spec.workers)),
        ("each", resources_text(spec)),
        ("priority", (spec.queue_config and spec.queue_config.priority_class) or ""),
        ("labels", ", ".join(f"{k}={v}" for k, v in (each.metadata.labels or {}).items())),
        ("owner", each.metadata.owner or ""),
        ("created", f"{age(each.metadata.created_at)} ago" if each.metadata.created_at else ""),
        ("from creation to end", _ran(each)),
    ]
