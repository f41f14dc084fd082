"""`leptonai simulate autoscale`, as people call it."""

import json

import pytest

from leptonai.cli.__main__ import run

RATES = "timestamp,value\n" + "".join(f"{at},{60 + at % 7}\n" for at in range(12))


@pytest.fixture
def simulate(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def simulate(*options, rates=RATES, service="2"):
        (tmp_path / "rates.csv").write_text(rates)
        given = ["simulate", "autoscale", "--rate", "rates.csv", "--service", service]
        exit_code = run([*given, "--cold-start", "30", *options])
        return exit_code, *capsys.readouterr()

    return simulate


@pytest.mark.parametrize("policy", ["ours", "hpa", "kpa", "static"])
def test_the_json_says_what_was_missed_and_what_it_cost(simulate, policy):
    exit_code, out, err = simulate("--policy", policy, "-o", "json")
    assert (exit_code, err) == (0, "")
    answer = json.loads(out)
    assert 0 <= answer["slo_miss_ratio"] < 0.1
    assert 1 < answer["cost_ratio"] < 20
    assert answer["requests"] == pytest.approx(12 * 63, rel=0.2)
    assert {"direction_changes", "max_queue", "target", "seed"} <= answer.keys()
    assert simulate("--policy", policy, "-o", "json") == (0, out, "")


def test_the_table_says_why_nothing_was_forecast(simulate):
    exit_code, out, _ = simulate()
    assert exit_code == 0
    assert "no forecast" in out
    assert "0.0 days of history, of at least 3" in out


def test_lengths_may_be_tokens_or_seconds(simulate, tmp_path):
    (tmp_path / "tokens.csv").write_text("ContextTokens,GeneratedTokens\n1000,90\n")
    (tmp_path / "seconds.csv").write_text("service_s\n3\n")
    answers = [simulate(service=f"{name}.csv") for name in ("tokens", "seconds")]
    assert answers[0] == answers[1]
    assert answers[0][0] == 0


def test_a_picture_is_drawn(simulate, tmp_path):
    pytest.importorskip("matplotlib")
    exit_code, _, err = simulate("--plot", "scaling.png")
    assert (exit_code, err) == (0, "drawn into scaling.png\n")
    assert (tmp_path / "scaling.png").stat().st_size > 1_000


@pytest.mark.parametrize(
    ("rates", "said"),
    [
        ("", "rates.csv:1: the file is empty"),
        ("value\n", "rates.csv:1: there is no row below the header"),
        ("time,rate\n1,2\n", "rates.csv:1: there is no column value or requests or count"),
        ("value\n1\n-2\n", "rates.csv:3: value is -2"),
        ("value\n1\nnan\n", "rates.csv:3: value is nan"),
        ("value\n1\n2,3\n", "rates.csv:3: 2 cells"),
        ("value\nmany\n", "rates.csv:2: value is 'many'"),
        ("value\n0\n0\n", "rates.csv: all values are 0"),
        ("value\n1e300\n", "and at most 20,000,000 are simulated"),
    ],
)
def test_rates_that_are_none_are_told_by_file_and_line(simulate, rates, said):
    exit_code, out, err = simulate(rates=rates)
    assert (exit_code != 0, out) == (True, "")
    assert said in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--policy", "magic"), "there is no policy 'magic'"),
        (("--target", "1"), "1 is no target of ours"),
        (("--target", "nan"), "'nan' is no number above 0"),
        (("--policy", "kpa", "--target", "70"), "70 is no target of kpa"),
        (("--policy", "static", "--target", "1.5"), "1.5 is no target of static"),
        (("--days", "2"), "'2' names no days"),
        (("--days", "3:4"), "the series has 0.0416667 days"),
        (("--min", "5", "--max", "4"), "--min 5 is more than --max 4"),
        (("--slo", "0"), "'0' is no number above 0"),
        (("--plot", "picture.txt"), "names no kind of picture"),
    ],
)
def test_what_cannot_be_is_refused_with_a_hint(simulate, options, said):
    exit_code, out, err = simulate(*options)
    assert (exit_code != 0, out) == (True, "")
    assert said in err


@pytest.mark.parametrize(
    ("lengths", "said"),
    [
        ("seconds\n1\n", "lengths.csv:1: there are no lengths"),
        ("service_s\n1\n-1\n", "lengths.csv:3: service_s is -1"),
        ("ContextTokens,GeneratedTokens\n0,0\n", "lengths.csv:2: the request has no tokens"),
    ],
)
def test_lengths_that_are_none_are_told_by_file_and_line(simulate, tmp_path, lengths, said):
    (tmp_path / "lengths.csv").write_text(lengths)
    exit_code, _, err = simulate(service="lengths.csv")
    assert exit_code != 0
    assert said in err
    exit_code, _, err = simulate(service="absent.csv")
    assert exit_code != 0
    assert "there is no file 'absent.csv'" in err
