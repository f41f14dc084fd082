"""`Report`: what the gates found, for people and for programs. Pure."""

import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import msgspec

from leptonai.data.quality.gates import GATES, Gate
from leptonai.errors import InvalidRequest

MAX_FINDINGS = 20  # of one gate, the worst ones; the rest is counted
MAX_EXAMPLES = 5  # of one finding
MAX_TEXT_CHARS = 200  # of a value that is shown

Severity = Literal["info", "warn", "fail"]
Result = Literal["ok", "info", "warn", "fail", "skipped"]


class Example(msgspec.Struct, frozen=True):
    where: str  # file, or file:row
    text: str = ""


class Found(NamedTuple):
    """What a check measured of one column, class, split, …; fine or not."""

    gate: str
    number: float
    what: str
    where: str = ""  # the column, class or split
    hint: str = ""
    examples: tuple[Example, ...] = ()
    chance: float = 0.0  # as large a number would be no surprise if nothing were wrong


class Skipped(NamedTuple):
    gate: str
    reason: str


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    gate: str
    severity: Severity
    what: str
    where: str
    number: float
    threshold: float
    examples: tuple[Example, ...]
    hint: str


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a gate."""

    gate: str
    result: Result
    number: float | None  # the worst one
    threshold: float
    asked: bool  # to fail
    findings: int  # also those that are not shown
    reason: str  # why it was skipped; "" if it was not


class Histogram(msgspec.Struct, frozen=True, kw_only=True):
    """Shares of a column's values now and before; the bins of numbers are between the edges."""

    name: str
    psi: float
    bins: tuple[str, ...]
    before: tuple[float, ...]
    now: tuple[float, ...]


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """As JSON it keeps its fields: a later `layout` may only add some."""

    layout: int = 1
    dataset: str
    type: str
    digest: str
    samples: int
    against: str  # the earlier version; "" if there was none
    outcomes: tuple[Outcome, ...]
    findings: tuple[Finding, ...]  # the worst first
    notes: tuple[str, ...]  # what was sampled, left out, and how fast it went
    classes: dict[str, int]  # samples of each; the largest ones
    missing: dict[str, float]  # share of each column; the worst ones
    drift: tuple[Histogram, ...]  # the most drifted ones

    @property
    def failed(self) -> tuple[Outcome, ...]:
        return tuple(each for each in self.outcomes if each.result == "fail")

    def summary(self) -> dict[str, dict[str, object]]:
        """What the record of a version keeps: result, number and threshold of each gate."""
        return {
            each.gate: {
                "result": each.result,
                **({} if each.number is None else {"number": each.number}),
                "threshold": each.threshold,
            }
            for each in self.outcomes
        }


class GatesFailed(InvalidRequest):
    """A dataset is not as somebody asked for; `report` says in what."""

    code = "GatesFailed"
    report: Report | None = None

    @classmethod
    def of(cls, report: Report) -> "GatesFailed":
        worst: dict[str, Finding] = {}
        for each in report.findings:
            worst.setdefault(each.gate, each)
        told = "; ".join(_told(each, worst[each.gate]) for each in report.failed)
        failed = cls(
            f"{report.dataset or 'the data'} failed {told}",
            hint=next(each.hint for each in report.findings if each.severity == "fail"),
        )
        failed.report = report
        return failed


def judge(
    measured: Sequence[Found | Skipped], asked: Mapping[str, float]
) -> tuple[tuple[Outcome, ...], tuple[Finding, ...]]:
    """An outcome for each gate that was measured or skipped, in the order of `GATES`; and what is
    worth a word. Past its threshold a gate warns, and fails if that was asked of it."""
    outcomes, findings = [], []
    for name, gate in GATES.items():
        found = [each for each in measured if isinstance(each, Found) and each.gate == name]
        reasons = [
            each.reason for each in measured if isinstance(each, Skipped) and each.gate == name
        ]
        if not found and not reasons:
            continue
        threshold = asked.get(name, gate.threshold)
        told = [
            _finding(each, gate, threshold, name in asked)
            for each in found
            if gate.is_past(each.number, gate.notable) or gate.is_past(each.number, threshold)
        ]
        told.sort(key=lambda each: (*_badness(each), each.where, each.what))
        numbers = [each.number for each in found]
        worst = (min if gate.at_least else max)(numbers, default=None)
        outcomes.append(
            Outcome(
                gate=name,
                result=told[0].severity if told else "ok" if found else "skipped",
                number=told[0].number if told else worst,
                threshold=threshold,
                asked=name in asked,
                findings=len(told),
                reason="" if found else reasons[0],
            )
        )
        findings += told[:MAX_FINDINGS]
    findings.sort(key=lambda each: (*_badness(each), each.gate, each.where, each.what))
    return tuple(outcomes), tuple(findings)


def shortened(value: object) -> str:
    text = "" if value is None else str(value)
    return text if len(text) <= MAX_TEXT_CHARS else text[: MAX_TEXT_CHARS - 1] + "…"


def _told(outcome: Outcome, worst: Finding) -> str:
    """`missing=0.05 with 0.12: age has no value in 12 of 100 rows, as in sales.csv:17`"""
    example = f", as in {worst.examples[0].where}" if worst.examples else ""
    return f"{outcome.gate}={outcome.threshold:g} with {outcome.number:.4g}: {worst.what}{example}"


def _finding(found: Found, gate: Gate, threshold: float, asked: bool) -> Finding:
    assert math.isfinite(found.number), found
    past = gate.is_past(found.number, threshold)
    by_chance = past and found.number <= found.chance
    return Finding(
        gate=gate.name,
        severity="info" if not past or by_chance else "fail" if asked else "warn",
        what=found.what + ("; so few samples differ as much by chance" if by_chance else ""),
        where=found.where,
        number=found.number,
        threshold=threshold,
        examples=found.examples[:MAX_EXAMPLES],
        hint=found.hint,
    )


def _badness(finding: Finding) -> tuple[int, float]:
    rank = ("fail", "warn", "info").index(finding.severity)
    return rank, -GATES[finding.gate].worse(finding.number, finding.threshold)
