"""What a served request costs, beside a bare ASGI application: one table.

``make bench-serve``, or ``python -m benchmarks.serving [NAME …]``. About three minutes. Parts that
are not named keep what was measured before.
"""

import argparse

from benchmarks.parts import Benchmark, measure_parts, parse, run_script

Row = dict[str, str]
PARTS = Benchmark(
    "serving",
    "Serving",
    "make bench-serve",
    {
        "gateway": "Through the gateway, with tokens and metrics",
        "replica": "A replica alone, 64 connections: medians (and the middle half of the rounds)",
        "rollouts": "Changes of an endpoint of 2 replicas, called 1,000 times a second",
        "warm": "A further replica of a small CNN, from nothing to its first answer",
    },
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__)
    measures = {"gateway": gateway, "replica": replica, "rollouts": rollouts, "warm": warm}
    measure_parts(PARTS, parse(parser, PARTS.parts).names, lambda name: measures[name]())


def gateway() -> list[Row]:
    few = run_script("gateway", "--server", "asgi", "--connections", "16", "--seconds", "4")
    bare = few["direct"]
    rows = [
        row("bare ASGI, asked directly, 16 connections", f"{bare['per_second']:,} /s"),
        row("… CPU of a request", f"{bare['server_cpu_us_per_request']:.0f} µs"),
    ]
    for connections in (16, 64):
        given = ("--server", "photon", "--connections", str(connections), "--seconds", "4")
        whole = run_script("gateway", *given)
        through = whole["gateway"]
        hop, end = through["gateway_cpu_us_per_request"], through["server_cpu_us_per_request"]
        what = f"gateway and a photon that does nothing, {connections} connections"
        goal = "≥ 8,000 /s" if connections == 64 else ""
        rows.append(row(what, f"{through['per_second']:,} /s", goal))
        if connections == 16:
            share = through["per_second"] / bare["per_second"]
            rows.append(row("… of bare ASGI", f"{share:.2f} ×", "≥ 0.35 ×"))
        rows += [
            row("… CPU of a request", f"{hop + end:.0f} µs", "≤ 110 µs"),
            row("… the gateway's part of it", f"{hop:.0f} µs"),
            row("… p99", f"{through['p99_ms']:.1f} ms", "≤ 20 ms" if connections == 64 else ""),
        ]
        alone = whole["one_connection"]
        added = alone["gateway"]["p50_ms"] - alone["direct"]["p50_ms"]
        rows.append(row("… added p50 at 1 connection", f"{added:.2f} ms", "≤ 0.3 ms"))
    few, many = (
        run_script("gateway", "--routes", count, "--seconds", "3")["gateway"][
            "gateway_cpu_us_per_request"
        ]
        for count in ("1", "1000")
    )
    idle = run_script("gateway", "--idle", "10000", "--seconds", "1")[
        "gateway_idle_connections_pss_mb"
    ]
    return [
        *rows,
        row("the hop's CPU, 1 endpoint in the table", f"{few:.0f} µs"),
        row("… 1,000 endpoints", f"{many:.0f} µs", "the same"),
        row("memory with 10,000 idle connections", f"{idle:.0f} MB", "≤ 150 MB"),
    ]


def replica() -> list[Row]:
    figures = run_script("photon")

    def found(name: str, form: str) -> str:
        low, high = figures["quartiles"][name]
        return form.format(f"{figures[name]:.3g} ({low:.3g}–{high:.3g})")

    def cost(name: str) -> str:
        return found(f"{name}_64_cpu_us", "{} µs")

    def beside(name: str) -> str:
        return found(f"{name}_64_cpu_to_bare", "{} ×")

    return [
        row("bare ASGI: CPU of a request", cost("bare")),
        row("handler that does nothing, async", cost("async_handler"), "≤ 40 µs"),
        row("… of bare ASGI", beside("async_handler")),
        row("… in a thread", cost("sync_handler"), "≤ 40 µs"),
        row("… of bare ASGI", beside("sync_handler")),
        row("… batched", cost("batched_handler")),
        row("perceptron on digits, batched", cost("mlp_batched"), "≤ 90 µs"),
        row("… one by one", cost("mlp_alone")),
        row("… batched, p50 at 1 connection", found("mlp_batched_in_turns_p50_ms", "{} ms")),
        row("… by that without batching", found("batching_p50_ratio_1", "{} ×"), "≤ 1.05 ×"),
    ]


def rollouts() -> list[Row]:
    figures = run_script("rollouts")
    rows = [
        row(
            "a change of a route, from the API's answer to the gateway's, p50",
            f"{figures['route_change_ms_p50']} ms",
        ),
        row("… the longest of 30", f"{figures['route_change_ms_max']} ms", "≤ 50 ms"),
    ]
    for name, what in (
        ("rolling", "rolling update"),
        ("canary", "canary in two steps, promoted by itself"),
        ("rollback", "canary, rolled back"),
    ):
        found = figures[name]
        rows += [
            row(f"{what}: failed of {found['answered']:,} requests", str(found["failed"]), "0"),
            row("… p99", f"{found['p99_ms']} ms"),
        ]
    return rows


def warm() -> list[Row]:
    figures = run_script("warm_starts")
    rows = []
    for what, told in (
        ("asked of the engine", "engine"),
        ("a request that wakes an endpoint, through the whole platform", "held"),
    ):
        copy, plain = figures[f"{told}_copy_ms"], figures[f"{told}_plain_ms"]
        rows += [
            row(f"{what}: a copy of a template", f"{copy:.0f} ms", "≤ 100 ms"),
            row("… started plainly", f"{plain:,.0f} ms"),
            row("… the copy's part of that", f"{copy / plain:.3f} ×"),
        ]
    return rows


def row(what: str, measured: str, goal: str = "") -> Row:
    return {"what": what, "measured": measured, "goal": goal}


if __name__ == "__main__":
    main()
