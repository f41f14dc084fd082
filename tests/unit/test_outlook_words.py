"""How an outlook reads: in the words of the API, and on a terminal."""

from dataclasses import replace

import pytest

from leptonai.cli.views import flags_text, print_explanation, start_text
from leptonai.core.outlook import Named, explained
from leptonai.core.scheduler import Quota, Snapshot
from leptonai.core.scheduler.outlook import look_ahead
from leptonai.spec.explanations import EstimatedStart, Explanation
from leptonai.testing.builders import A_MOMENT_MS, a_gang, a_holding, a_node, a_snapshot

MINUTE_MS = 60_000
PLAIN = Explanation(state="Queueing", code="queued", because="")


def told(snapshot: Snapshot, named: str = "named") -> Explanation:
    gang = next(gang for gang in snapshot.queue if gang.id == "train")
    outlook = look_ahead(snapshot, "train")
    return explained(PLAIN, outlook, gang, lambda other: Named("job", other if named else ""))


def proposals(snapshot: Snapshot) -> list[tuple[str, dict]]:
    return [(each.text, each.spec) for each in told(snapshot).alternatives]


def test_each_change_is_told_in_words_and_as_a_patch_of_the_spec():
    snapshot = a_snapshot(
        a_node("a", gpus=4, gpu_type="A100", cpu=8),
        a_node("h", gpus=4, gpu_type="H100", cpu=8),
        a_holding(node="a", gpus=2, devices=(0, 1)),
        a_gang(gpus=1, gpu_type="A100", workers=4),
    )
    assert proposals(snapshot) == [
        ("ask for H100 GPUs instead of A100", {"accelerator_type": "H100"}),
        ("ask for 2 workers instead of 4", {"completions": 2, "parallelism": 2}),
        ("ask for 0.5 GPU instead of 1 for each worker", {"accelerator_num": 0.5}),
    ]


def test_a_smaller_share_is_told_in_cores_and_mib():
    snapshot = a_snapshot(
        a_node(cpu=4, memory_gib=16), a_holding(cpu=2, memory_gib=8), a_gang(cpu=4, memory_gib=16)
    )
    assert proposals(snapshot) == [
        (
            "ask for 2 CPU instead of 4 and 8 GiB of memory instead of 16 GiB",
            {"cpu": 2.0, "memory": 8192},
        )
    ]


def test_a_higher_priority_says_who_would_stop():
    held = a_holding("low", cpu=4, priority=4000, preemptible=True, ran_ms=5 * MINUTE_MS)
    snapshot = a_snapshot(a_node(cpu=4), held, a_gang(cpu=4, priority=4000))
    (found,) = told(snapshot).alternatives
    assert (found.text, found.spec, found.preempts) == (
        "give it the priority mid-5000; job low would stop for it",
        {"queue_config": {"priority_class": "mid-5000"}},
        ["job low"],
    )


def test_a_larger_quota_is_for_an_admin_and_no_change_of_the_spec():
    gang = replace(a_gang(cpu=0, gpus=1, gpu_type="A100"), user="ana", preemptible=True)
    quota = Quota(user="ana", gpus=0.5, borrow=False)
    snapshot = replace(a_snapshot(a_node(gpus=8), gang), quotas=(quota,))
    assert proposals(snapshot)[-1] == ("have an admin raise the quota of user ana to 1 GPU", {})


def test_the_patch_for_an_endpoint_goes_one_level_further_down():
    gang = replace(a_gang(cpu=4), lasting=True)
    snapshot = a_snapshot(a_node(cpu=4), a_holding(cpu=2), gang)
    assert proposals(snapshot) == [
        ("ask for 2 CPU instead of 4", {"resource_requirement": {"cpu": 2.0}})
    ]


def test_who_is_first_is_named_to_those_who_may_know():
    overdue = a_gang("first", cpu=4, waited_ms=10**9)
    snapshot = a_snapshot(a_node(cpu=4), a_holding(cpu=2), overdue, a_gang(cpu=2))
    assert (
        told(snapshot).because == "waits behind job first, which goes first and needs the same room"
    )
    assert told(snapshot, named="").because == (
        "waits behind another that goes first and needs the same room"
    )


def test_a_terminal_is_told_why_who_until_when_and_what_instead(capsys):
    snapshot = a_snapshot(a_node(cpu=4), a_holding("big", cpu=2), a_gang(cpu=4))
    print_explanation(told(snapshot))
    assert (
        capsys.readouterr().out
        == """\
Queueing: needs 4 CPUs on one node; the most that is free on one is 2 CPUs

HELD    BY   NAME
2 CPUs  job  big

Nobody knows when it starts: nothing says how long job big will run; a job can, with --estimate

Would start it now:
  1. ask for 2 CPU instead of 4   --cpu 2
"""
    )


@pytest.mark.parametrize(
    ("minutes", "text"),
    [
        ((60, 60, 60), "Starts in 1h: why"),
        ((30, 60, 120), "Starts in about 1h (between 30m and 2h): why"),
        ((30, 60, None), "Starts in about 1h (not within 30m): why"),
        ((None, 60, None), "Starts in about 1h: why"),
        ((30, None, None), "Does not start within 30m: why"),
        ((None, None, None), "Nobody knows when it starts: why"),
    ],
)
def test_an_interval_is_told_as_far_as_it_is_known(minutes, text):
    early, expected, late = (
        None if minute is None else A_MOMENT_MS + minute * MINUTE_MS for minute in minutes
    )
    start = EstimatedStart(earliest_at=early, expected_at=expected, latest_at=late, because="why")
    assert start_text(start, A_MOMENT_MS) == text


def test_a_patch_is_told_as_the_options_that_ask_for_it():
    patch = {
        "accelerator_type": "A100",
        "cpu": 2.0,
        "memory": 512,
        "queue_config": {"priority_class": "high-8000"},
    }
    assert flags_text(patch) == "--gpu-type A100 --cpu 2 --memory 512MiB --priority high-8000"
    assert flags_text({"affinity": None}) == ""
    assert flags_text({"resource_requirement": {"cpu": 0.5}}) == "--cpu 0.5"
