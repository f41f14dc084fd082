"""`leptonai run`: what trainings measured."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from leptonai.cli.groups import Group
from leptonai.cli.options import together
from leptonai.cli.output import (
    fits_terminal,
    print_facts,
    print_json,
    print_table,
    say,
    wants_colour,
)
from leptonai.cli.run_views import (
    differing,
    draw_png,
    facts_of,
    last_of,
    metric_keys,
    metric_order,
    names_of,
    number_text,
    param_text,
    row_of,
    short_id,
    sort_key,
)
from leptonai.cli.session import FOLLOW_PATIENCE_S, connect, output_option
from leptonai.errors import InvalidRequest

if TYPE_CHECKING:
    from leptonai.spec.runs import Curve, Run

F = TypeVar("F", bound=Callable[..., Any])

LISTED = 50
COMPARED = 1_000
METRIC_COLUMNS = 5
CHART_HEIGHT = 16
PNG_POINTS = 2_000

run = Group(
    name="run",
    help="See what trainings measured, compare them, and plot their curves.",
    example="""\
leptonai run list --project vision
leptonai run compare --project vision --sort loss
leptonai run plot cats dogs -k loss --log""",
)

local_option = click.option(
    "--local", metavar="DIR", help="Of runs recorded in this directory, as in ./runs."
)


# Which runs.
filter_options = together(
    click.option("--project", metavar="NAME", help="Of this project."),
    click.option("--name", help="Of this name."),
    click.option(
        "--state",
        "states",
        multiple=True,
        type=click.Choice(["running", "finished", "failed", "stopped"], case_sensitive=False),
        help="In this state.",
    ),
    click.option("--label", "labels", multiple=True, metavar="KEY[=VALUE]", help="Tagged so."),
    click.option(
        "--param",
        "params",
        multiple=True,
        metavar="KEY=VALUE",
        help="With this parameter; also KEY>VALUE, <, >=, <=, !=.",
    ),
    click.option("-n", "--limit", type=click.IntRange(min=1), help="At most so many."),
    local_option,
)


@run.does(
    "list",
    example="""\
leptonai run list
leptonai run list --project vision --state finished --param 'lr>0.01'
leptonai run list --local ./runs""",
)
@filter_options
@output_option
def list_(output: str, limit: int | None, **which: Any) -> None:
    """List runs, newest first."""
    found = _select(limit or LISTED, **which)
    if output == "json":
        print_json(found)
    elif found:
        keys = metric_keys(found)[:METRIC_COLUMNS]
        while keys and not fits_terminal(_table(found, keys)):
            keys.pop()
        headers, *rows = _table(found, keys)
        print_table(headers, rows)
    else:
        say("no runs; record one: leptonai.run.log(loss=0.5) in a training")


def _table(found: Sequence[Run], keys: Sequence[str]) -> list[tuple[str, ...]]:
    headers = ("RUN", "NAME", "STATE", "JOB", "STARTED", "TOOK", *keys)
    return [headers, *(row_of(each, keys) for each in found)]


@run.does("get", example="leptonai run get cats\nleptonai run get 3f2a9c01 -o json")
@local_option
@output_option
@click.argument("reference", metavar="RUN")
def get(output: str, local: str | None, reference: str) -> None:
    """Show a run: by its id, the beginning of one, its job's id, or its name."""
    (found,) = _named([reference], local)
    if output == "json":
        print_json(found)
        return
    print_facts(facts_of(found))
    summary = found.status.summary if found.status else {}
    if summary:
        click.echo()
        rows = [
            (
                key,
                number_text(each.last),
                str(each.step),
                number_text(each.min),
                number_text(each.max),
            )
            for key, each in sorted(summary.items(), key=lambda item: metric_order(item[0]))
        ]
        print_table(("METRIC", "LAST", "STEP", "LEAST", "GREATEST"), rows)


@run.does(
    "compare",
    example="""\
leptonai run compare cats dogs
leptonai run compare --project vision --sort loss -k loss -k accuracy""",
)
@filter_options
@click.option("-k", "--key", "keys", multiple=True, metavar="KEY", help="This metric; else all.")
@click.option("--sort", metavar="KEY", help="The least last value of this metric first.")
@output_option
@click.argument("references", nargs=-1, metavar="[RUN]...")
def compare(
    output: str,
    keys: tuple[str, ...],
    sort: str | None,
    references: tuple[str, ...],
    limit: int | None,
    **which: Any,
) -> None:
    """Show side by side in which parameters runs differ, and what came of it."""
    if references:
        found = _named(references, which["local"])
    else:
        found = _select(limit or COMPARED, **which)
    if sort is not None:
        found = sorted(found, key=lambda each: sort_key(each, sort))
    if output == "json":
        print_json(found)
        return
    params = differing([each.spec.params for each in found])
    shown = list(keys) or metric_keys(found)[:METRIC_COLUMNS]
    rows = [
        (
            short_id(each),
            each.metadata.name or "",
            str(each.status.state) if each.status else "",
            *(param_text(each.spec.params.get(name, "")) for name in params),
            *(last_of(each, key) for key in shown),
        )
        for each in found
    ]
    if rows:
        print_table(("RUN", "NAME", "STATE", *params, *shown), rows)
    else:
        say("no runs to compare")


@run.does(
    "plot",
    example="""\
leptonai run plot cats -k loss
leptonai run plot cats dogs -k loss --log --png loss.png
leptonai run plot --local ./runs 3f2a9c01 -k loss -k accuracy""",
)
@click.option("-k", "--key", "keys", multiple=True, metavar="KEY", help="These metrics; else all.")
@click.option("--log", is_flag=True, help="A logarithmic axis.")
@click.option("--from-step", type=int, help="From this step on.")
@click.option("--to-step", type=int, help="Up to this step.")
@click.option("--png", metavar="FILE", help="Draw into a file, with matplotlib.")
@local_option
@output_option
@click.argument("references", nargs=-1, required=True, metavar="RUN...")
def plot(
    output: str,
    keys: tuple[str, ...],
    log: bool,
    from_step: int | None,
    to_step: int | None,
    png: str | None,
    local: str | None,
    references: tuple[str, ...],
) -> None:
    """Draw curves, one chart a metric, with all the runs in it."""
    found = _named(references, local)
    wanted = list(keys) or metric_keys(found)[:METRIC_COLUMNS]
    if not wanted:
        raise InvalidRequest("there is nothing to plot yet", hint="name a metric with -k")
    columns = shutil.get_terminal_size().columns
    points = PNG_POINTS if png else 4 * columns
    curves = {
        (each.metadata.id or ""): _curves(each, wanted, points, from_step, to_step, local)
        for each in found
    }
    if output == "json":
        print_json([{"run": id, "curves": of} for id, of in curves.items()])
        return
    missing = [key for key in wanted if not any(of[key].steps for of in curves.values())]
    if len(missing) == len(wanted):
        raise InvalidRequest(
            f"none of these runs has the metric {missing[0][:60]!a}",
            hint=f"There are: {', '.join(metric_keys(found)[:10]) or 'none'}.",
        )
    names = names_of(found)
    if png is not None:
        draw_png(Path(png), wanted, names, curves, log=log)
        click.echo(png)
        return
    from leptonai.cli.charts import Line, chart

    terminal = sys.stdout.isatty()
    for number, key in enumerate(wanted):
        lines = [
            Line(names[id], of[key].steps, [float(value) for value in of[key].values])
            for id, of in curves.items()
            if of[key].steps
        ]
        text = chart(
            lines,
            title=key,
            width=min(columns, 120),
            height=CHART_HEIGHT,
            log=log,
            coloured=terminal and wants_colour(),
        )
        click.echo("\n".join(["", *text] if number else text), color=terminal)


@run.does("remove", example="leptonai run remove 3f2a9c01")
@output_option
@click.argument("references", nargs=-1, required=True, metavar="RUN...")
def remove(output: str, references: tuple[str, ...]) -> None:
    """Forget runs with all that they measured."""
    removed = []
    with connect() as client:
        for reference in references:
            id = client.runs.find(reference).metadata.id or ""
            client.runs.remove(id)
            removed.append({"id": id, "action": "removed"})
            if output == "table":
                click.echo(f"removed {reference}")
    if output == "json":
        print_json(removed)


@run.does("upload", example="leptonai run upload ./runs")
@output_option
@click.argument("directory")
def upload(output: str, directory: str) -> None:
    """Send runs that were recorded in a directory; again sends nothing twice."""
    from leptonai.tracking.folder import folders_in
    from leptonai.tracking.upload import upload as send

    folders = folders_in(Path(directory))
    if not folders:
        raise InvalidRequest(f"{directory} holds no runs", hint="name the directory of runs")
    sent = []
    with connect(retry_for_s=FOLLOW_PATIENCE_S) as client:
        for folder in folders:
            sent.append(send(folder, client))
            if output == "table":
                click.echo(f"{sent[-1].metadata.id} {sent[-1].metadata.name}")
    if output == "json":
        print_json(sent)


def _select(
    limit: int,
    *,
    project: str | None,
    name: str | None,
    states: tuple[str, ...],
    labels: tuple[str, ...],
    params: tuple[str, ...],
    local: str | None,
) -> Sequence[Run]:
    from leptonai.spec.runs import RunState

    wanted = [RunState(state.capitalize()) for state in states]
    terms = [*labels, *([f"project={project}"] if project else [])]
    if local is not None:
        if params:
            raise click.UsageError("--param needs a workspace: leave out --local")
        return [
            each
            for each in _local_runs(local)
            if (name is None or each.metadata.name == name)
            and (not wanted or (each.status and each.status.state in wanted))
            and all(_labelled(each, term) for term in terms)
        ][:limit]
    with connect() as client:
        return client.runs.list(
            name=name, states=wanted, labels=",".join(terms) or None, params=params, limit=limit
        )


def _labelled(each: Run, term: str) -> bool:
    key, equals, value = term.partition("=")
    labels = each.metadata.labels or {}
    return key in labels and (not equals or labels[key] == value)


def _named(references: Sequence[str], local: str | None) -> Sequence[Run]:
    if local is None:
        with connect() as client:
            return [client.runs.find(each) for each in references]
    from leptonai.errors import NotFound

    there, found = _local_runs(local), []
    for reference in references:
        fits = [
            each
            for each in there
            if each.metadata.name == reference or (each.metadata.id or "").startswith(reference)
        ]
        if not fits:
            raise NotFound(
                f"no run in {local} is called {reference!r}",
                hint=f"see `leptonai run list --local {local}`",
            )
        found.append(fits[0])
    return found


def _local_runs(directory: str) -> Sequence[Run]:
    from leptonai.cli.local_runs import load
    from leptonai.tracking.folder import folders_in

    return [load(folder) for folder in folders_in(Path(directory))]


def _curves(
    each: Run,
    keys: Sequence[str],
    points: int,
    from_step: int | None,
    to_step: int | None,
    local: str | None,
) -> dict[str, Curve]:
    id = each.metadata.id or ""
    if local is not None:
        from leptonai.cli.local_runs import curves

        return curves(Path(local), id, keys, points, from_step, to_step)
    with connect() as client:
        found = client.runs.metrics(id, *keys, points=points, from_step=from_step, to_step=to_step)
    return {curve.key: curve for curve in found.curves}
