"""`leptonai endpoint rollout`: how a new revision takes over; and the options of `update` that say
how it should."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from leptonai.cli.groups import Group
from leptonai.cli.options import as_one
from leptonai.cli.output import age, answer, print_facts, print_json, print_table, say
from leptonai.cli.session import connect, output_option

if TYPE_CHECKING:
    from leptonai.spec.rollouts import Rollout, RolloutPlan, VersionTraffic

F = TypeVar("F", bound=Callable[..., Any])
STRATEGIES = ("rolling", "blue-green", "canary", "shadow")
HALF = 50.0  # percent: where a canary that was given one step goes on

rollout = Group(
    name="rollout",
    help="Follow how a new revision of an endpoint takes over, and decide it.",
    example="""\
leptonai endpoint update digits --model digits-cnn@2 --canary 10%
leptonai endpoint rollout status digits
leptonai endpoint rollout promote digits
leptonai endpoint rollout rollback digits""",
)


@rollout.does(
    "status",
    example="""\
leptonai endpoint rollout status digits
leptonai endpoint rollout status digits -o json""",
)
@output_option
@click.argument("name")
def status(output: str, name: str) -> None:
    """Show the roll-out of an endpoint, or how the last one ended."""
    with connect() as client:
        found = client.endpoints.rollout(name)
    if output == "json":
        print_json(found)
        return
    _print(found)
    if found.state == "Progressing":
        say(f"next: leptonai endpoint rollout promote {name}, or rollback, decides it now")


@rollout.does("promote", example="leptonai endpoint rollout promote digits")
@output_option
@click.argument("name")
def promote(output: str, name: str) -> None:
    """Let the new revision have all requests now."""
    with connect() as client:
        decided = client.endpoints.promote(name)
    answer(decided, output, decided.message)


@rollout.does("rollback", example="leptonai endpoint rollout rollback digits")
@output_option
@click.argument("name")
def rollback(output: str, name: str) -> None:
    """Go back to the revision before, also after a promotion."""
    with connect() as client:
        decided = client.endpoints.roll_back(name)
    answer(decided, output, decided.message)


def _plan(
    strategy: str | None,
    canary: str | None,
    step_seconds: int | None,
    keep_seconds: int | None,
    shadow: str | None,
) -> RolloutPlan | None:
    """None where nothing was said of it."""
    from leptonai.spec.rollouts import RolloutPlan, Strategy

    if strategy is None and canary is None and shadow is None:
        if step_seconds is not None or keep_seconds is not None:
            raise click.UsageError("--step-seconds and --keep-seconds need a --strategy")
        return None
    implied = {"canary": canary, "shadow": shadow}
    named = {name for name, value in implied.items() if value is not None}
    if strategy is not None:
        named.add(strategy)
    if len(named) > 1:
        raise click.UsageError(f"choose one of {', '.join(sorted(named))}")
    steps = None
    if canary is not None:
        steps = [_percent(text, "--canary") for text in canary.split(",")]
        if len(steps) == 1 and steps[0] < HALF:
            steps.append(HALF)
    if shadow is not None:
        steps = [_percent(shadow, "--shadow")]
    return RolloutPlan(
        strategy=Strategy(named.pop()),
        steps=steps,
        step_seconds=step_seconds,
        keep_seconds=keep_seconds,
    )


# The command gets `plan`.
rollout_options = as_one(
    "plan",
    _plan,
    click.option(
        "--strategy",
        type=click.Choice(STRATEGIES),
        help="How the new revision takes over; rolling, if not given.",
    ),
    click.option(
        "--canary",
        metavar="PERCENT[,PERCENT...]",
        help="Give it a part of the requests, more in steps while nothing gets worse.",
    ),
    click.option(
        "--step-seconds",
        type=click.IntRange(min=1),
        help="How long a step of a canary lasts at least; 60 if not given.",
    ),
    click.option(
        "--keep-seconds",
        type=click.IntRange(min=0),
        help="How long blue-green keeps the old revision; 300 if not given.",
    ),
    click.option(
        "--shadow",
        metavar="PERCENT",
        help="Send it copies of so many requests, and compare the answers.",
    ),
)


def _percent(text: str, option: str) -> float:
    try:
        percent = float(text.strip().removesuffix("%"))
    except ValueError:
        percent = 0.0
    if not 0 < percent <= 100:
        raise click.UsageError(f"{option} takes percents like 10%, and not {text.strip()!r}")
    return percent


def _print(found: Rollout) -> None:
    print_facts(_facts(found))
    revisions = [each for each in (found.stable, found.new) if each is not None and each.requests]
    if revisions:
        click.echo()
        print_table(
            ("REVISION", "REQUESTS", "FAILED", "REFUSED", _slow_header(found), "P50", "P95"),
            [_row(each) for each in revisions],
        )
    if found.shadow is not None and found.shadow.compared:
        compared = found.shadow.compared
        click.echo()
        print_table(
            ("COPIES", "ANSWERS", "SHARE"),
            [
                ("compared", str(compared), ""),
                ("other status", *part_of(found.shadow.status_differs, compared)),
                ("other body", *part_of(found.shadow.body_differs, compared)),
            ],
        )


def _facts(found: Rollout) -> list[tuple[str, str]]:
    steps = " → ".join(f"{step:g} %" for step in found.steps or ())
    progresses = found.state == "Progressing"
    return [
        ("state", found.state),
        ("message", found.message),
        ("revision", f"{found.revision}, after {found.stable_revision}"),
        ("gets", _share(found) if progresses else ""),
        ("steps", f"{steps} → 100 %" if found.step is not None else ""),
        ("step for", age(found.step_started_at) if progresses else ""),
        ("started", f"{age(found.started_at)} ago" if found.started_at else ""),
        ("ended", f"{age(found.ended_at)} ago" if found.ended_at else ""),
    ]


def _share(found: Rollout) -> str:
    if found.shadow is not None:
        return f"copies of {(found.steps or [100])[0]:g} % of the requests"
    return "by replicas" if found.percent is None else f"{found.percent:g} % of the requests"


def _slow_header(found: Rollout) -> str:
    return "SLOW" if found.slow_above_ms is None else f"OVER {found.slow_above_ms:g} MS"


def _row(each: VersionTraffic) -> tuple[str, ...]:
    return (
        str(each.revision),
        str(each.requests),
        " ".join(part_of(each.failed, each.requests)),
        " ".join(part_of(each.refused, each.requests)),
        "" if each.slow is None else " ".join(part_of(each.slow, each.requests)),
        _ms(each.p50_ms),
        _ms(each.p95_ms),
    )


def part_of(count: int, of: int) -> tuple[str, str]:
    share = 100 * count / of if count else 0.0
    return str(count), f"({share:.0f} %)" if share >= 10 else f"({share:.2g} %)" if count else ""


def _ms(value: float | None) -> str:
    return "" if value is None else f"{value:.3g} ms"
