"""The platform's own autoscaler in the simulator: its `decide`, and a fit each day."""

import math

from leptonai.core.elasticity import (
    BIN_S,
    NEW,
    Concurrency,
    Demand,
    Fleet,
    Forecast,
    NoForecast,
    Policy,
    decide,
    fit,
)
from leptonai.testing.simulator.autoscale import Measured
from leptonai.testing.simulator.traffic import DAY_S, Traffic


def enough(rate: float, service_s: float, slots: int, certainty: float = 0.99) -> int:
    """Replicas for a rate that stays, in which a slot is free at nearly all times."""
    from leptonai.core.elasticity.forecast import reactive_rate

    return max(1, math.ceil(reactive_rate(rate, certainty, service_s) * service_s / slots))


class Ours:
    """Learns once a day from what it has counted up to then."""

    interval_s = 2.0

    def __init__(
        self,
        traffic: Traffic,
        *,
        certainty: float,
        cold_start_s: float,
        slots: int,
        initial: int,
        least: int = 1,
        most: int = 1000,
    ) -> None:
        self._policy = Policy(
            target=Concurrency(float(slots)),
            certainty=certainty,
            min_replicas=least,
            max_replicas=most,
        )
        self._cold_start_s, self._slots, self._initial = cold_start_s, slots, initial
        self._counts: list[float] = traffic.history.tolist()
        self._first_bin_s = traffic.begins_s - len(self._counts) * BIN_S
        self._begins_s, self._service_s = traffic.begins_s, traffic.service_s
        self._counting, self._counted_s = 0, 0.0
        self._state = NEW
        self._fitted_day = -1
        self.forecast: Forecast | NoForecast = NoForecast("it has not begun")
        self.decisions = self.predictive = 0

    def initial(self) -> int:
        self._fit(0.0)
        return self._initial

    def desired(self, measured: Measured) -> int:
        self._count(measured)
        self._fit(measured.now_s)
        demand = Demand(
            window_s=measured.window_s,
            arrivals=measured.arrived,
            ended=measured.ended,
            busy_s=measured.busy_s,
            queued=measured.queued,
            in_flight=measured.in_flight,
        )
        now_s = measured.now_s
        fleet = Fleet(
            ready=measured.ready,
            starting_ages_s=tuple(now_s - since for since in measured.starting_since_s),
            slots=self._slots,
            cold_start_s=self._cold_start_s,
        )
        forecast = self.forecast if isinstance(self.forecast, Forecast) else None
        scale, self._state = decide(
            self._policy, self._state, demand, fleet, self._begins_s + now_s, forecast
        )
        self.decisions += 1
        self.predictive += scale.predictive
        return scale.desired

    def _count(self, measured: Measured) -> None:
        self._counting += measured.arrived
        self._counted_s += measured.window_s
        if self._counted_s >= BIN_S:
            self._counts.append(float(self._counting))
            self._counting, self._counted_s = 0, 0.0

    def _fit(self, now_s: float) -> None:
        day = int((self._begins_s + now_s) // DAY_S)
        if day == self._fitted_day:
            return
        self._fitted_day = day
        self.forecast = fit(
            self._counts,
            begins_s=self._first_bin_s,
            lead_s=self._cold_start_s,
            certainty=self._policy.certainty,
            service_s=self._state.service_s or self._service_s,
        )
