"""How runs are shown: what tells them apart, and what came of each."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leptonai.cli.output import age, span
from leptonai.errors import InvalidRequest

if TYPE_CHECKING:
    from leptonai.spec.runs import Curve, Number, Run

SHOWN_ID_CHARS = 8
MACHINE = ("system/", "gpu/")  # metrics that are not the training's own
PNG_INCHES = (10, 5)


def differing(params: Sequence[dict[str, Any]]) -> list[str]:
    """Names of parameters that are not the same everywhere."""
    names = sorted({name for each in params for name in each})
    return [name for name in names if len({repr(each.get(name, Ellipsis)) for each in params}) > 1]


def names_of(runs: Sequence[Run]) -> dict[str, str]:
    """Of each run by its id; with the beginning of the id where several have one name."""
    names = [each.metadata.name or "" for each in runs]
    return {
        (each.metadata.id or ""): name if names.count(name) == 1 else f"{name} {short_id(each)}"
        for each, name in zip(runs, names, strict=True)
    }


def short_id(each: Run) -> str:
    return (each.metadata.id or "")[:SHOWN_ID_CHARS]


def metric_keys(runs: Sequence[Run]) -> list[str]:
    """The training's own first."""
    keys = {key for each in runs if each.status for key in each.status.summary}
    own = [key for key in keys if not _of_machine(key)]
    return sorted(own or keys, key=metric_order)


def _of_machine(key: str) -> bool:
    bare = key.partition("/")[2] if key.startswith("rank") else key
    return bare.startswith(MACHINE)


def metric_order(key: str) -> tuple[bool, bool, bool, str]:
    return _of_machine(key), key.startswith("rank"), key == "learning_rate", key


def row_of(each: Run, keys: Sequence[str]) -> tuple[str, ...]:
    status = each.status
    return (
        short_id(each),
        each.metadata.name or "",
        str(status.state) if status else "",
        each.spec.job,
        age(status.started_at) if status else "",
        _took(each),
        *(last_of(each, key) for key in keys),
    )


def _took(each: Run) -> str:
    status = each.status
    if status is None:
        return ""
    ended_at = status.ended_at or time.time_ns() // 1_000_000
    return span((ended_at - status.started_at) / 1_000)


def last_of(each: Run, key: str) -> str:
    found = each.status.summary.get(key) if each.status else None
    return number_text(found.last) if found else ""


def sort_key(each: Run, key: str) -> tuple[bool, float, str]:
    found = each.status.summary.get(key) if each.status else None
    value = float(found.last) if found else float("nan")
    return value != value, value if value == value else 0.0, each.metadata.id or ""


def facts_of(each: Run) -> list[tuple[str, str]]:
    spec, status = each.spec, each.status
    git, labels = spec.git, each.metadata.labels or {}
    facts = [
        ("run", each.metadata.id or ""),
        ("name", each.metadata.name or ""),
        ("owner", each.metadata.owner or ""),
        ("labels", " ".join(f"{k}={v}" if v else k for k, v in labels.items())),
    ]
    if status is not None:
        facts += [
            ("state", f"{status.state} {status.message}".strip()),
            ("job", f"{spec.job} ({status.job_state})" if status.job_state else spec.job),
            ("started", f"{age(status.started_at)} ago"),
            ("took", _took(each)),
            ("points", str(status.points) if status.points else ""),
        ]
        if (usage := status.usage) is not None and usage.cpu_hours:
            gpu = f", {usage.gpu_hours:.3g} GPU hours" if usage.gpu_hours else ""
            facts.append(("cost", f"{usage.cpu_hours:.3g} CPU hours{gpu}"))
    if git is not None:
        changed = " with changes" if git.dirty else ""
        facts.append(("git", f"{git.commit[:12]} {git.branch}{changed}".strip()))
    facts += [
        ("command", " ".join(spec.command)),
        *((f"data {role}", reference) for role, reference in spec.datasets.items()),
        *((f"model {role}", reference) for role, reference in spec.models.items()),
        *((f"artifact {name}", of.digest) for name, of in spec.artifacts.items()),
        *(spec.environment.items()),
        *((f"param {name}", param_text(value)) for name, value in sorted(spec.params.items())),
    ]
    return facts


def param_text(value: object) -> str:
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def number_text(value: Number) -> str:
    number = float(value)
    return f"{number:.5g}" if abs(number) < 1e15 else str(number)


def draw_png(
    file: Path,
    keys: Sequence[str],
    names: Mapping[str, str],
    curves: Mapping[str, Mapping[str, Curve]],
    *,
    log: bool,
) -> None:
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise InvalidRequest(
            "--png needs matplotlib", hint="pip install 'openlepton[plot]', or leave out --png"
        ) from None
    figure = Figure(figsize=(PNG_INCHES[0], PNG_INCHES[1] * len(keys)), layout="constrained")
    axes = figure.subplots(len(keys), squeeze=False)[:, 0]
    for key, axis in zip(keys, axes, strict=True):
        for id, of in curves.items():
            axis.plot(of[key].steps, [float(v) for v in of[key].values], label=names[id])
        axis.set(title=key, xlabel="step", yscale="log" if log else "linear")
        axis.grid(alpha=0.3)
        if len(curves) > 1:
            axis.legend()
    try:
        figure.savefig(file, format="png", dpi=120)
    except OSError as failure:
        raise InvalidRequest(f"{file}: {failure.strerror}", hint="name another file") from failure
