"""The newer wire of endpoints and pods is another spelling of ours."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leptonai.errors import InvalidRequest
from leptonai.spec import codec
from leptonai.spec.endpoints import EndpointSpec, LeptonDeployment
from leptonai.spec.newer_wire import (
    deployment_of_devpod,
    deployment_of_endpoint,
    devpod_of,
    endpoint_of,
)

names = st.text("abc", min_size=1, max_size=3)
specs = st.builds(
    dict,
    container=st.fixed_dictionaries(
        {},
        optional={
            "image": names,
            "command": st.lists(names),
            "ports": st.lists(st.fixed_dictionaries({"container_port": st.integers(1, 65535)})),
        },
    ),
    resource_requirement=st.fixed_dictionaries(
        {},
        optional={
            "resource_shape": names,
            "cpu": st.floats(0.5, 4),
            "memory": st.integers(1, 9),
            "min_replicas": st.integers(0, 1),
            "max_replicas": st.integers(1, 3),
            "shared_memory_size": st.integers(0, 9),
            "affinity": st.just({"allowed_dedicated_node_groups": ["g"]}),
            "host_network": st.booleans(),
        },
    ),
) | st.fixed_dictionaries(
    {},
    optional={
        "auto_scaler": st.just({"scale_down": {"no_traffic_timeout": 60}}) | st.just({}),
        "api_tokens": st.lists(st.fixed_dictionaries({"value": names})),
        "allow_unauthenticated_access": st.booleans(),
        "auth_config": st.just({"ip_allowlist": []}),
        "envs": st.lists(st.fixed_dictionaries({"name": names, "value": names})),
        "mounts": st.just([{"from": "node-local", "mount_path": "/d"}]),
        "health": st.just({"liveness": {"tcp": {"port": 3}}}),
        "load_balance_config": st.just({"maglev": {}}),
        "routing_policy": st.just({"enable_header_based_replica_routing": True}),
        "ingress_timeout_seconds": st.integers(300, 3600),
        "queue_config": st.just({"priority_class": "mid-4000"}),
        "model": names,
        "workdir": names,
        "gateway": st.just({"retry": "never", "domains": ["a.b"]}),
    },
)


def builtins(spec: dict[str, Any]) -> dict[str, Any]:
    """As a record's spec is shown: what is at its default is left out."""
    made: dict[str, Any] = msgspec.to_builtins(msgspec.convert(spec, EndpointSpec))
    return made


METADATA = {"name": "e", "owner": "ada", "visibility": "private", "created_at": 5, "version": 2}


@given(specs)
def test_an_endpoint_comes_back_as_it_went(spec: dict[str, Any]) -> None:
    deployment = {"metadata": METADATA, "spec": builtins(spec)}
    back = deployment_of_endpoint(endpoint_of(deployment))
    assert back == deployment
    assert msgspec.convert(back, LeptonDeployment).spec == msgspec.convert(spec, EndpointSpec)


@given(specs)
def test_a_pod_comes_back_as_it_went(spec: dict[str, Any]) -> None:
    deployment = {"metadata": METADATA, "spec": builtins(spec) | {"is_pod": True}}
    assert deployment_of_devpod(devpod_of(deployment)) == deployment


@given(specs, specs)
def test_a_difference_makes_one_of_the_other(one: dict[str, Any], other: dict[str, Any]) -> None:
    before, after = builtins(one), builtins(other)
    assert codec.merge_patch(before, codec.difference(before, after)) == after


def test_an_endpoint_is_spelt_as_the_client_reads_it() -> None:
    deployment = {
        "metadata": METADATA | {"id": "e", "semantic_version": "1.2"},
        "spec": {
            "container": {"image": "i", "command": ["c"], "ports": [{"container_port": 8080}]},
            "resource_requirement": {"resource_shape": "cpu.small", "min_replicas": 1},
            "auto_scaler": {"scale_down": {"no_traffic_timeout": 3600}},
            "auth_config": {"ip_allowlist": []},
            "load_balance_config": {"maglev": {}},
            "api_tokens": [],
        },
        "status": {
            "state": "Not Ready",
            "phase": "Stopped",
            "endpoint": {"internal_endpoint": "u", "external_endpoint": "u"},
            "ready_replicas": 0,
            "autoscaler_status": {"desired_replicas": 0},
        },
    }
    assert endpoint_of(deployment) == {
        "metadata": {
            "name": "e",
            "created_at": 5,
            "version": 2,
            "semantic_version": "1.2",
            "lepton_metadata": {"owner": "ada", "visibility": "private"},
        },
        "spec": {
            "components": [
                {
                    "name": "default",
                    "image": "i",
                    "command": ["c"],
                    "ports": [{"container_port": 8080}],
                    "resource_shape": "cpu.small",
                    "min_replicas": 1,
                    "autoscaling": {"scale_down": {"no_traffic_timeout": 3600}},
                }
            ],
            "access_config": {"ip_allowlist": []},
            "load_balancing": {"maglev": {}},
            "api_tokens": [],
        },
        "status": {
            "state": "Stopped",
            "external_url": "u",
            "ready_replicas": 0,
            "auto_scaler_status": {"desired_replicas": 0},
        },
    }


@pytest.mark.parametrize("components", [None, [], [{}, {}], "x", [3]])
def test_an_endpoint_of_other_than_one_component_is_refused(components: Any) -> None:
    with pytest.raises(InvalidRequest, match="one component"):
        deployment_of_endpoint({"spec": {"components": components}})
