"""What is learnt from an endpoint's history, and when nothing is."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leptonai.core.elasticity import BIN_S, Forecast, NoForecast, fit
from leptonai.core.elasticity.forecast import pinball

BINS_A_DAY = 86_400 // BIN_S


def a_history(rates, seed=0):
    return np.random.default_rng(seed).poisson(np.asarray(rates) * BIN_S).astype(float)


def days(number, rate):
    """`rate` by the share of the day that has gone."""
    return [rate(at % BINS_A_DAY / BINS_A_DAY) for at in range(number * BINS_A_DAY)]


def fitted(counts, **more):
    options = {"begins_s": 0.0, "lead_s": 600.0, "certainty": 0.9} | more
    return fit(counts, **options)


def test_a_rise_that_comes_every_day_is_known_before_it_comes():
    def office(at):
        return 20.0 if 0.375 <= at < 0.75 else 2.0

    forecast = fitted(a_history(days(6, office)))
    assert isinstance(forecast, Forecast)
    assert forecast.gain > 0
    just_before = 0.375 * 86_400 - 300  # 10 minutes ahead it has begun
    assert forecast.usual(just_before) == pytest.approx(20, rel=0.05)
    quiet = forecast.rate(2.0, 2.0, 0.2 * 86_400)
    assert forecast.rate(2.0, 2.0, just_before) > quiet + 5


def test_what_is_forecast_is_the_quantile_asked_for():
    rates = np.random.default_rng(1).gamma(4.0, 1.0, 5 * BINS_A_DAY // 30).repeat(30)
    for certainty in (0.5, 0.95):
        forecast = fitted(a_history(rates), lead_s=60.0, certainty=certainty)
        assert isinstance(forecast, Forecast)
        test = a_history(np.random.default_rng(2).gamma(4.0, 1.0, 300).repeat(30), seed=2) / BIN_S
        windows = forecast.fast_s // BIN_S
        kept = [
            test[at + 6]
            <= forecast.rate(test[at - windows : at].mean(), test[at - 30 : at].mean(), 0.0)
            for at in range(30, len(test) - 6)
        ]
        assert np.mean(kept) == pytest.approx(certainty, abs=0.05)


def test_chance_in_the_slots_is_learnt_too():
    # Of 0.1 s, 4 requests/s are 0.4 busy slots on average, but often 1 or 2.
    history = a_history(np.full(4 * BINS_A_DAY, 4.0))
    slots = fitted(history, service_s=0.1, certainty=0.98)
    rate = fitted(history, certainty=0.98)
    assert isinstance(slots, Forecast)
    assert isinstance(rate, Forecast)
    assert slots.rate(4, 4, 0.0) * 0.1 > 1.2
    assert rate.rate(4, 4, 0.0) == pytest.approx(4 + 2.05 * np.sqrt(4 / BIN_S), rel=0.1)


@pytest.mark.parametrize(
    ("counts", "because"),
    [
        (np.ones(BINS_A_DAY), "1.0 days of history, of at least 3"),
        (np.zeros(4 * BINS_A_DAY), "no traffic in its history"),
        (np.full(4 * BINS_A_DAY, np.nan), "no traffic in its history"),
        (
            np.full(4 * BINS_A_DAY, 8.0),
            "in back-test it did not beat scaling by the rate of now",
        ),
    ],
)
def test_nothing_is_forecast_where_nothing_is_to_be_learnt(counts, because):
    assert fitted(counts) == NoForecast(because)


def test_gaps_in_the_history_are_left_out():
    counts = a_history(days(6, lambda at: 5 + 4 * np.sin(2 * np.pi * at)))
    counts[::1_000] = np.nan
    counts[20_000:25_000] = np.nan
    forecast = fitted(counts)
    assert isinstance(forecast, Forecast)
    assert np.isfinite([forecast.alpha, forecast.beta, forecast.gamma, *forecast.profile]).all()


def test_pinball_weighs_too_little_by_the_certainty():
    assert pinball(10.0, 8.0, 0.9) == pytest.approx(1.8)
    assert pinball(8.0, 10.0, 0.9) == pytest.approx(0.2)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=40), st.sampled_from([0.5, 0.9, 0.99]))
@settings(max_examples=4, deadline=None)
def test_weights_are_never_below_zero_nor_no_numbers(pattern, certainty):
    counts = np.resize(np.array(pattern, dtype=float), 3 * BINS_A_DAY)
    forecast = fitted(counts, certainty=certainty, service_s=1.0)
    if isinstance(forecast, Forecast):
        weights = (forecast.alpha, forecast.beta, forecast.gamma)
        assert all(0 <= weight < 1e6 for weight in weights)
        assert forecast.gain > 0
