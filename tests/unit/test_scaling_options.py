"""What the options of `endpoint create` and `update` ask of an autoscaler."""

import click
import pytest
from click.testing import CliRunner

from leptonai.cli.requested import endpoint_of, read
from leptonai.cli.scaling import policy_text, scaling_options
from leptonai.errors import InvalidRequest
from leptonai.spec import codec
from leptonai.spec.endpoints import EndpointSpec, LeptonDeployment


@click.command()
@scaling_options
def command(scaling):
    command.asked = scaling


def asked(*options: str):
    done = CliRunner().invoke(command, options, standalone_mode=False)
    if done.exception is not None:
        raise done.exception
    return command.asked


def qpm(number, paths=None, methods=None):
    return {"qpm": number, "paths": paths, "methods": methods}


NO_TARGET = {
    "target_throughput": None,
    "target_gpu_utilization_percentage": None,
    "target_concurrency": None,
    "slo": None,
}


@pytest.mark.parametrize(
    ("options", "spec"),
    [
        ("", {}),
        (
            "--replicas 2",
            {"resource_requirement": {"min_replicas": 2, "max_replicas": 2}, "auto_scaler": None},
        ),
        # Started with --min-replicas 1, it is scaled as before.
        ("--replicas 0", {"resource_requirement": {"min_replicas": 0}}),
        ("--min-replicas 1", {"resource_requirement": {"min_replicas": 1}}),
        (
            "--scale-to-zero-after 10m",
            {"auto_scaler": {"scale_down": {"no_traffic_timeout": 600}}},
        ),
        (
            "--min-replicas 1 --max-replicas 3 --target-qpm 2.5",
            {
                "resource_requirement": {"min_replicas": 1, "max_replicas": 3},
                "auto_scaler": {**NO_TARGET, "target_throughput": qpm(2.5)},
            },
        ),
        (
            "--target-gpu 50",
            {"auto_scaler": {**NO_TARGET, "target_gpu_utilization_percentage": 50}},
        ),
        (
            "--target-qpm 9 --count-path /predict --count-path /v1/* --count-method POST",
            {
                "auto_scaler": {
                    **NO_TARGET,
                    "target_throughput": qpm(9.0, ["/predict", "/v1/*"], ["POST"]),
                }
            },
        ),
        (
            "--give-up-after 20m",
            {"auto_scaler": {"scale_down": {"not_ready_timeout": 1200}}},
        ),
        ("--target-concurrency 4", {"auto_scaler": {**NO_TARGET, "target_concurrency": 4.0}}),
        ("--slo p95<200ms", {"auto_scaler": {**NO_TARGET, "slo": "p95<200ms"}}),
        (
            "--cool-down 5m --max-up 2 --max-down 1 --max-cost 6 --replica-cost 1.5",
            {
                "auto_scaler": {
                    "cool_down_seconds": 300,
                    "max_up_per_minute": 2,
                    "max_down_per_minute": 1,
                    "max_cost_per_hour": 6.0,
                    "cost_per_replica_hour": 1.5,
                }
            },
        ),
    ],
)
def test_options_are_fields_of_the_spec(options, spec):
    assert asked(*options.split()) == spec


def test_schedules_have_times_and_bounds():
    two = asked(
        "--schedule", "Mon-Fri 08:00-18:00 min=4 max=8", "--schedule", "daily 1:00-2:00 max=1"
    )
    assert two["auto_scaler"]["schedules"] == [
        {"times": "Mon-Fri 08:00-18:00", "min_replicas": 4, "max_replicas": 8},
        {"times": "daily 1:00-2:00", "max_replicas": 1},
    ]


@pytest.mark.parametrize(
    ("options", "because"),
    [
        (["--replicas", "2", "--target-qpm", "5"], "a fixed number"),
        (["--replicas", "2", "--max-replicas", "5"], "a fixed number"),
        (["--min-replicas", "0", "--scale-to-zero-after", "5m"], "--min-replicas 0 stops it"),
        (["--slo", "p95<1s", "--target-qpm", "5"], "keep one target"),
        (["--schedule", "daily 1:00-2:00"], "no number of replicas"),
        (["--schedule", "daily 1:00-2:00 least=4"], "is no bound"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options, because):
    with pytest.raises(click.ClickException) as refused:
        asked(*options)
    assert because in refused.value.format_message()


@pytest.mark.parametrize(
    ("options", "field"),
    [
        (["--target-qpm", "nan"], "target_throughput.qpm"),
        (["--target-concurrency", "inf"], "target_concurrency"),
        (["--cool-down", "90d"], "cool_down_seconds"),
        (["--max-cost", "nan"], "max_cost_per_hour"),
        (["--schedule", "daily 1:00-2:00 min=0"], "min_replicas"),
    ],
)
def test_numbers_that_no_spec_holds_are_refused_by_their_field(options, field):
    with pytest.raises(InvalidRequest, match=field):
        endpoint_of(
            read(LeptonDeployment, None),
            name="e",
            labels={},
            model="m",
            command=(),
            image=None,
            port=None,
            scaling=asked(*options),
            tokens=(),
            public=False,
            health_path=None,
            priority=None,
            envs=(),
            resources={},
        )


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ({}, ""),
        ({"resource_requirement": {"min_replicas": 2}, "auto_scaler": {}}, ""),
        (
            {
                "resource_requirement": {"min_replicas": 1, "max_replicas": 3},
                "auto_scaler": {
                    "target_throughput": {"qpm": 2.5},
                    "scale_down": {"no_traffic_timeout": 3600},
                },
            },
            "1–3 replicas, 2.5 requests a minute to each; to 0 after 1h without a request",
        ),
        (
            {"auto_scaler": {"schedules": [{"times": "daily 1:00-2:00", "min_replicas": 4}]}},
            "1 replica, daily 1:00-2:00 min=4",
        ),
    ],
)
def test_a_policy_is_told_in_words(spec, text):
    asked = codec.convert(LeptonDeployment, {"metadata": {"name": "e"}, "spec": spec})
    assert isinstance(asked.spec, EndpointSpec)
    assert policy_text(asked) == text
