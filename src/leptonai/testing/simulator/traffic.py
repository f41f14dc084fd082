"""Requests as series of rates and lists of lengths tell of them: read from CSV, and drawn."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leptonai.core.elasticity import BIN_S
from leptonai.core.tables import Column, read_table
from leptonai.errors import InvalidRequest
from leptonai.testing.simulator.autoscale import Requests

DAY_S = 86_400
MAX_REQUESTS = 20_000_000
PROMPT_TOKEN_S, ANSWER_TOKEN_S = 0.0003, 0.03  # what a token takes, where only tokens are known

RATE = Column("value", ("value", "requests", "count"))
SERVICES = (
    Column("service_s", optional=True),
    Column("ContextTokens", optional=True),
    Column("GeneratedTokens", optional=True),
)


@dataclass(frozen=True, slots=True)
class Traffic:
    """What is simulated, and what the endpoint has counted before."""

    requests: Requests
    history: NDArray[np.float64]  # requests in each BIN_S before
    begins_s: float  # when the simulation begins, since the midnight before the series
    service_s: float  # the mean
    rates: NDArray[np.float64]  # requests/s of each bin of what is simulated
    rate_before: float  # requests/s just before


def read_rates(lines: Iterable[str], *, source: str) -> NDArray[np.float64]:
    """Requests in each bin, from the column RATE.

    Raises:
        InvalidRequest: with file, line and what was expected.
    """
    rows = read_table(lines, source=source, columns=[RATE])
    counts = np.array([row.number("value", zero=True) for row in rows])
    if not counts.any():
        raise InvalidRequest(f"{source}: all values are 0", hint="expected some requests")
    return counts


def read_services(lines: Iterable[str], *, source: str) -> NDArray[np.float64]:
    """For how many seconds each request needs a slot: service_s, or what its tokens take.

    Raises:
        InvalidRequest: with file, line and what was expected.
    """
    services = []
    for row in read_table(lines, source=source, columns=SERVICES):
        if "service_s" in row:
            services.append(row.number("service_s"))
        elif "ContextTokens" in row and "GeneratedTokens" in row:
            prompt = row.number("ContextTokens", zero=True)
            answer = row.number("GeneratedTokens", zero=True)
            if not prompt + answer:
                raise row.wrong("the request has no tokens", expected="some")
            services.append(PROMPT_TOKEN_S * prompt + ANSWER_TOKEN_S * answer)
        else:
            expected = "a header with service_s, or with ContextTokens and GeneratedTokens"
            raise InvalidRequest(f"{source}:1: there are no lengths", hint=f"expected {expected}")
    return np.array(services)


def draw_traffic(
    counts: NDArray[np.float64],
    services: NDArray[np.float64],
    *,
    bin_s: int,
    days: tuple[float, float] | None = None,
    mean_rate: float | None = None,
    seed: int = 0,
) -> Traffic:
    """Poisson arrivals within each bin, with service times drawn from the list.

    Args:
        counts: requests in each bin.
        days: from and to, counted from the beginning of the series: what is simulated. What lies
            before is the endpoint's history. None: all, without a history.
        mean_rate: requests/s of what is simulated, to which the series is scaled; None: as it is.

    Raises:
        InvalidRequest: nothing would be left to simulate, or too much.
    """
    first, last = 0, len(counts)
    if days is not None:
        first, last = (round(day * DAY_S / bin_s) for day in days)
    there = len(counts) * bin_s / DAY_S
    if not 0 <= first < last <= len(counts):
        hint = f"use FROM:TO within 0:{there:g}"
        raise InvalidRequest(f"the series has {there:g} days", hint=hint)
    rates = counts / bin_s
    mean = float(rates[first:last].mean())
    if mean <= 0:
        raise InvalidRequest("there are no requests on these days", hint="choose others")
    if mean_rate is not None:
        rates = rates * (mean_rate / mean)
    expected = float(rates[first:last].sum()) * bin_s
    if expected > MAX_REQUESTS:
        what = f"{expected:,.0f} requests would arrive, and at most {MAX_REQUESTS:,} are simulated"
        raise InvalidRequest(what, hint="use fewer days, or a smaller mean rate")
    rng = np.random.default_rng(seed)
    numbers = rng.poisson(rates[first:last] * bin_s)
    begun = np.repeat(np.arange(len(numbers)) * float(bin_s), numbers)
    arrived = np.sort(begun + rng.random(len(begun)) * bin_s)
    drawn = rng.choice(services, len(arrived))
    whole = math.floor(first * bin_s / BIN_S)
    at = first * bin_s - (whole - np.arange(whole)) * BIN_S
    history = rng.poisson(rates[(at // bin_s).astype(int)] * BIN_S).astype(np.float64)
    return Traffic(
        requests=Requests(arrived, drawn, float((last - first) * bin_s)),
        history=history,
        begins_s=float(first * bin_s),
        service_s=float(services.mean()),
        rates=rates[first:last],
        rate_before=float(rates[max(0, first - 1)]),
    )
