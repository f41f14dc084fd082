"""What a report says: which gates pass, warn and fail, what comes first, what is refused."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leptonai.data.quality.gates import GATES, parse_gates, thresholds
from leptonai.data.quality.report import (
    MAX_FINDINGS,
    Example,
    Finding,
    Found,
    GatesFailed,
    Outcome,
    Report,
    Skipped,
    judge,
)
from leptonai.errors import InvalidRequest, from_wire


def missing(share, column="age"):
    return Found("missing", share, f"{column} is missing", where=column)


def results(*measured, **asked):
    outcomes, findings = judge(measured, asked)
    return (
        {each.gate: each.result for each in outcomes},
        [(each.severity, each.where) for each in findings],
    )


def report(*measured, **asked):
    outcomes, findings = judge(measured, asked)
    return Report(
        dataset="people", type="tabular", digest="sha256:1", samples=100, against="",
        outcomes=outcomes, findings=findings, notes=(), classes={}, missing={}, drift=(),
    )  # fmt: skip


def test_a_gate_warns_past_its_threshold_and_fails_only_where_that_was_asked():
    assert results(missing(0.0)) == ({"missing": "ok"}, [])
    assert results(missing(0.05)) == ({"missing": "info"}, [("info", "age")])
    assert results(missing(0.06)) == ({"missing": "warn"}, [("warn", "age")])
    assert results(missing(0.06), missing=0.05) == ({"missing": "fail"}, [("fail", "age")])
    assert results(missing(0.06), missing=0.1) == ({"missing": "info"}, [("info", "age")])


def test_a_number_that_should_be_large_fails_when_it_is_small():
    few = Found("few-samples", 3, "cat has 3 samples", where="cat")
    assert results(few, **{"few-samples": 3}) == ({"few-samples": "info"}, [("info", "cat")])
    assert results(few, **{"few-samples": 4}) == ({"few-samples": "fail"}, [("fail", "cat")])
    assert results(few._replace(number=30)) == ({"few-samples": "ok"}, [])


def test_what_chance_alone_would_do_is_no_reason_to_fail():
    small = Found("drift", 0.3, "x drifted", where="x", chance=0.4)
    assert results(small, drift=0.25) == ({"drift": "info"}, [("info", "x")])
    assert results(small._replace(chance=0.2), drift=0.25) == ({"drift": "fail"}, [("fail", "x")])


def test_what_fails_comes_first_then_what_is_furthest_past_its_threshold():
    assert results(
        missing(0.1, "a"), missing(0.9, "b"), missing(0.01, "c"),
        Found("leakage", 0.1, "leaks", where="test"), leakage=0.0,
    )[1] == [("fail", "test"), ("warn", "b"), ("warn", "a"), ("info", "c")]  # fmt: skip


def test_a_gate_that_could_not_be_checked_says_why_and_does_not_fail():
    outcomes, findings = judge([Skipped("leakage", "the data has no splits")], {"leakage": 0.0})
    assert (outcomes, findings) == (
        (
            Outcome(
                gate="leakage", result="skipped", number=None, threshold=0.0, asked=True,
                findings=0, reason="the data has no splits",
            ),
        ),
        (),
    )  # fmt: skip


def test_only_the_worst_findings_of_a_gate_are_shown_and_all_are_counted():
    outcomes, findings = judge([missing(0.1 + n / 1000, f"c{n:03}") for n in range(100)], {})
    assert (outcomes[0].findings, len(findings)) == (100, MAX_FINDINGS)
    assert findings[0].where == "c099"


@given(st.lists(st.tuples(st.sampled_from(sorted(GATES)), st.floats(0, 1e6)), max_size=30))
def test_equal_measurements_give_equal_reports_in_whatever_order_they_come(numbers):
    measured = [Found(gate, number, f"{gate} {number}") for gate, number in numbers]
    assert judge(measured, {"drift": 0.2}) == judge(measured[::-1], {"drift": 0.2})


def test_a_report_keeps_its_fields_as_json():
    found = missing(0.2)._replace(examples=(Example("a.csv:2", "NA"),), hint="fill it")
    made = report(found, missing=0.1)
    assert msgspec.json.decode(msgspec.json.encode(made), type=Report) == made
    assert msgspec.to_builtins(made)["findings"] == (
        {
            "gate": "missing", "severity": "fail", "what": "age is missing", "where": "age",
            "number": 0.2, "threshold": 0.1, "examples": ({"where": "a.csv:2", "text": "NA"},),
            "hint": "fill it",
        },
    )  # fmt: skip
    assert [*msgspec.to_builtins(made)] == [
        "layout", "dataset", "type", "digest", "samples", "against", "outcomes", "findings",
        "notes", "classes", "missing", "drift",
    ]  # fmt: skip
    assert [each.name for each in msgspec.structs.fields(Finding)] == [
        "gate", "severity", "what", "where", "number", "threshold", "examples", "hint",
    ]  # fmt: skip


def test_a_version_keeps_what_each_gate_measured():
    made = report(missing(0.2), Skipped("drift", "nothing earlier"), missing=0.5, drift=0.25)
    assert made.summary() == {
        "missing": {"result": "info", "number": 0.2, "threshold": 0.5},
        "drift": {"result": "skipped", "threshold": 0.25},
    }


def test_failing_says_which_gate_by_how_much_and_where():
    made = report(
        missing(0.2)._replace(examples=(Example("a.csv:2"),), hint="fill it"), missing=0.1
    )
    failed = GatesFailed.of(made)
    assert failed.message == ("people failed missing=0.1 with 0.2: age is missing, as in a.csv:2")
    assert (failed.hint, failed.report) == ("fill it", made)


def test_other_refusals_keep_their_class_on_the_wire():
    wired = from_wire(400, InvalidRequest("no", hint="yes").wire())
    assert type(wired) is InvalidRequest
    assert type(from_wire(400, GatesFailed("no", hint="yes").wire())) is GatesFailed


def test_gates_are_named_with_a_threshold_or_with_the_usual_one():
    assert parse_gates(["missing", "near_duplicates=0.5", "Drift = 0.2"]) == {
        "missing": 0.05, "near-duplicates": 0.5, "drift": 0.2,
    }  # fmt: skip
    assert thresholds({"missing": 0.1}) == thresholds("missing=0.1") == {"missing": 0.1}


def test_an_unknown_gate_is_refused_with_all_there_are():
    with pytest.raises(InvalidRequest) as refused:
        parse_gates(["nulls"])
    assert refused.value.message == "there is no gate 'nulls'"
    assert refused.value.hint == f"gates are {', '.join(GATES)}"


@pytest.mark.parametrize(
    "text", ["missing=", "missing=much", "missing=-1", "missing=nan", "drift=inf"]
)
def test_a_threshold_that_is_no_number_is_refused(text):
    with pytest.raises(InvalidRequest, match="no number of 0 or more"):
        parse_gates([text])
