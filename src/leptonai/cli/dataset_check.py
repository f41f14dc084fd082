"""`leptonai dataset check`: what is wrong with data, in the terminal."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import click

from leptonai.cli.dataset_library import data_library, say_if_two
from leptonai.cli.groups import Command
from leptonai.cli.output import print_json, print_table, printable, say
from leptonai.cli.progress import Progress
from leptonai.cli.session import connect, output_option

if TYPE_CHECKING:
    from leptonai.data.quality.report import Finding, Outcome, Report

MAX_SHOWN_FINDINGS = 20
SECOND_WORDS = {"image": "classification", "object": "detection", "text": "classification",
                "time": "series"}  # fmt: skip

type_option = click.option(
    "-t",
    "--type",
    metavar="TYPE",
    help="What the data is: image classification, object detection, tabular, text, "
    "text classification, time series, files; by default what the files' names say.",
)


class TypedCommand(Command):
    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """A type may be two words: `--type image classification`."""
        for at, word in enumerate(args[:-1]):
            if word in ("--type", "-t") and at + 2 < len(args):
                first, second = args[at + 1].lower(), args[at + 2].lower()
                if SECOND_WORDS.get(first) == second:
                    args[at + 1 : at + 3] = [f"{first} {second}"]
                    break
        return super().parse_args(ctx, args)


fail_on_option = click.option(
    "--fail-on",
    "fail_on",
    multiple=True,
    metavar="GATE[=THRESHOLD]",
    help="Fail past the threshold, missing=0.1 say: schema, types, missing, infinite, encoding, "
    "outliers, duplicates, near-duplicates, label-conflicts, leakage, near-leakage, balance, "
    "few-samples, corrupt, boxes, timestamps, gaps, drift.",
)


@click.command(
    "check",
    cls=TypedCommand,
    example="""\
leptonai dataset check ./pets
leptonai dataset check pets@3 --against pets@2 --fail-on corrupt --fail-on drift=0.2
leptonai dataset check ./sales.csv --plot sales.png""",
)
@fail_on_option
@click.option("--against", metavar="NAME[@VERSION]|PATH", help="Earlier data to compare with.")
@type_option
@click.option("--plot", metavar="FILE", help="Draw classes, missing values and drift: .png, .svg.")
@output_option
@click.argument("what", metavar="NAME[@VERSION]|PATH")
def check(
    fail_on: tuple[str, ...],
    against: str | None,
    type: str | None,
    plot: str | None,
    output: str,
    what: str,
) -> None:
    """Measure what is wrong with data: missing values, copies, leaks between splits, drift.

    Exits with 1 if a gate that --fail-on names is past its threshold; others only warn.
    """
    dataset = data_library()
    from leptonai.data.quality.gates import parse_gates
    from leptonai.data.quality.plot import check_plot
    from leptonai.data.quality.plot import plot as draw
    from leptonai.data.quality.report import GatesFailed

    asked = parse_gates(fail_on)
    if plot is not None:
        check_plot(Path(plot))
    with contextlib.ExitStack() as closing:
        client = None
        say_if_two(what)
        if any(is_registered(of) for of in (what, against) if of):
            client = closing.enter_context(connect())
        checked = dataset.from_local(what, type=type, client=client)
        earlier = dataset.from_local(against, type=type, client=client) if against else None
        progress = Progress("checking")
        try:
            report = checked.check(against=earlier, fail_on=asked, progress=progress)
        finally:
            progress.end()
    if plot is not None:
        draw(report, Path(plot))
    print_json(report) if output == "json" else show(report)
    if report.failed:
        raise GatesFailed.of(report)
    unchecked = [each for each in report.outcomes if each.asked and each.result == "skipped"]
    for each in unchecked:
        say(f"could not be checked: {each.gate}: {each.reason}")
    if asked and not unchecked:
        say(f"passed: {', '.join(asked)}")


def is_registered(text: str) -> bool:
    """A name, and no path of this machine."""
    from leptonai.data.workspace import looks_like_a_reference

    return not Path(text).exists() and looks_like_a_reference(text)


def show(report: Report) -> None:
    """A line for each gate, then the worst findings."""
    against = f", against {report.against}" if report.against else ""
    click.echo(printable(f"{report.dataset}: {report.type}, {report.samples:,} samples{against}"))
    print_table(
        ("RESULT", "GATE", "NUMBER", "LIMIT", "FOUND", "WORST"),
        [_row(each, report) for each in report.outcomes if each.result != "skipped" or each.asked],
    )
    skipped = [each for each in report.outcomes if each.result == "skipped" and not each.asked]
    for reason in dict.fromkeys(each.reason for each in skipped):
        gates = ", ".join(each.gate for each in skipped if each.reason == reason)
        click.echo(printable(f"skipped {gates}: {reason}"))
    for finding in report.findings[:MAX_SHOWN_FINDINGS]:
        click.echo("")
        for line in _lines(finding):
            click.echo(printable(line))
    rest = sum(each.findings for each in report.outcomes) - MAX_SHOWN_FINDINGS
    if rest > 0:
        click.echo(f"\n… and {rest} more findings; -o json has the worst of each gate")
    for note in report.notes:
        say(f"note: {printable(note)}")


def summary_line(quality: dict[str, dict[str, object]]) -> str:
    """Of what the record of a version keeps: `missing 0.02 ok, drift 0.31 warn`."""
    return ", ".join(
        f"{gate} {_number(told['number'])}{told.get('result')}"
        if "number" in told
        else f"{gate} {told.get('result')}"
        for gate, told in quality.items()
    )


def _row(outcome: Outcome, report: Report) -> tuple[str, ...]:
    from leptonai.data.quality.gates import GATES

    sign = "≥" if GATES[outcome.gate].at_least else "≤"
    worst = next((each.what for each in report.findings if each.gate == outcome.gate), "")
    return (
        outcome.result,
        outcome.gate,
        "" if outcome.number is None else f"{outcome.number:.4g}",
        f"{sign} {outcome.threshold:g}",
        str(outcome.findings or ""),
        worst or outcome.reason,
    )


def _lines(finding: Finding) -> list[str]:
    return [
        f"{finding.severity}  {finding.gate}: {finding.what}",
        *(f"      {each.where}  {each.text}".rstrip() for each in finding.examples),
        *([f"      → {finding.hint}"] if finding.hint else []),
    ]


def _number(value: object) -> str:
    return f"{value:.4g} " if isinstance(value, (int, float)) else ""
