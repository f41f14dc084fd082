"""How many replicas an endpoint should have: what was measured in, one number and a sentence out.

The control loop, the simulator and the tests call the same `decide`. It keeps what it must remember
in a `State`, which is data: store it, be killed, read it, and go on. `fit` learns a `Forecast` from
the history of one endpoint, and says no where acting on it would not have been better.
"""

from leptonai.core.elasticity.deciding import Scale, decide
from leptonai.core.elasticity.forecast import BIN_S, Forecast, NoForecast, fit
from leptonai.core.elasticity.measuring import NEW, State
from leptonai.core.elasticity.policy import parse_latency, parse_schedule, policy_of
from leptonai.core.elasticity.values import (
    Concurrency,
    Demand,
    Fleet,
    Latency,
    Policy,
    Schedule,
    Target,
    Throughput,
    Utilisation,
)

__all__ = [
    "BIN_S",
    "NEW",
    "Concurrency",
    "Demand",
    "Fleet",
    "Forecast",
    "Latency",
    "NoForecast",
    "Policy",
    "Scale",
    "Schedule",
    "State",
    "Target",
    "Throughput",
    "Utilisation",
    "decide",
    "fit",
    "parse_latency",
    "parse_schedule",
    "policy_of",
]
