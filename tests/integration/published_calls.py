"""What the published client sends, and what it must find in the answers: as a table.

Requests are as it makes them; shapes hold the fields without which it fails, or skips an item. A
type stands for a value of that type, `Maybe(shape)` for one that may be absent or null, a list of
one shape for a list whose items all have it, and a set for one of some values.
"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Maybe:
    shape: Any


@dataclass(frozen=True)
class PublishedCall:
    command: str  # that makes it
    method: str
    path: str
    body: Any = None
    status: int = 200
    shape: Any = None  # None: the body is not read


NUMBER = (int, float)
METADATA = {"id": str, "name": str, "created_at": int, "owner": Maybe(str)}
JOB_STATES = {
    *("Starting", "Running", "Failed", "Completed", "Stopped", "Stopping", "Deleting", "Deleted"),
    *("Restarting", "Archived", "Queueing", "Awaiting", "PendingRetry", "Terminating"),
}
JOB = {
    "metadata": METADATA,
    "spec": {"container": {"command": [str]}},
    "status": {
        "state": JOB_STATES,
        "ready": int,
        "active": int,
        "failed": int,
        "succeeded": int,
        "creation_time": int,
        "completion_time": Maybe(int),
        "job_history": list,
    },
}
ENDPOINT_STATES = {
    *("Ready", "Not Ready", "Starting", "Updating", "Scaling", "Migrating", "Stopping", "Stopped"),
    *("Deleting", "Restarting", "Error"),
}
DEPLOYMENT = {
    "metadata": METADATA,
    "spec": dict,
    "status": {
        "state": ENDPOINT_STATES,
        "phase": ENDPOINT_STATES,
        "endpoint": {"internal_endpoint": str, "external_endpoint": str},
        "ready_replicas": Maybe(int),
    },
}
EVENT = {"type": str, "reason": str, "count": int, "last_observed_time": str, "regarding": dict}
REPLICA = {"metadata": dict, "id": str, "status": Maybe({"node": Maybe({"name": str, "id": str})})}
AMOUNTS = {"cpu": NUMBER, "memory": int, "accelerator_num": NUMBER}
WORKSPACE = {
    "build_time": str,
    "git_commit": str,
    "workspace_name": str,
    "workspace_tier": str,
    "workspace_state": {"normal", "paused", "all-pods-terminated", "terminated"},
    "supported_shapes": dict,
    "workspace_disk_usage_bytes": int,
    "workloads": {
        "num_deployments": int,
        "num_jobs": int,
        "num_pods": int,
        "num_secrets": int,
        "num_image_pull_secrets": int,
    },
    "resource_quota": {"limit": AMOUNTS, "used": AMOUNTS},
    "features": {"enable_new_deployment_api": bool, "enable_secure_endpoint_defaults": bool},
}
GROUP = {
    "metadata": METADATA,
    "spec": {"volumes": Maybe([{"from": str, "name": str, "size_in_gb": int}])},
    "status": {"ready_nodes": int, "quota_enabled": bool},
}
INGRESS = {
    "metadata": METADATA,
    "spec": {"domain_name": str},
    "status": {"validation_status": {"pending", "active", "failed"}, "message": str},
}
TEMPLATE = {
    "metadata": {"id": str, "name": str},
    "spec": {"content": dict, "workload_type": {"job", "pod", "deployment"}},
}
RAYCLUSTER = {
    "metadata": METADATA,
    "spec": {
        "head_group_spec": {"container": {"image": str}},
        "worker_group_specs": [{"group_name": str, "min_replicas": int}],
    },
    "status": {
        "state": {
            *("Ready", "Not Ready", "Starting", "Deleting", "Scaling", "Stopping", "Stopped"),
        },
        "readyWorkerReplicas": int,
        "desiredWorkerReplicas": int,
        "conditions": [{"type": str, "status": str, "reason": str, "message": str}],
    },
}
LOGS = {"data": {"result": [{"stream": dict, "values": list}]}}

JOB_BODY = {
    "metadata": {"id": "train"},
    "spec": {
        "resource_shape": "cpu.small",
        "container": {
            "image": "nvcr.io/nvidia/pytorch:25.08-py3",
            "command": ["/bin/bash", "-c", "python train.py"],
        },
        "completions": 1,
        "parallelism": 1,
        "envs": [{"name": "A", "value": "1"}],
        "mounts": [],
        "image_pull_secrets": [],
        "ttl_seconds_after_finished": 259200,
        "log": {"enable_collection": True},
    },
}
ENDPOINT_BODY = {
    "metadata": {"id": "web", "name": "web"},
    "spec": {
        "container": {
            "image": "python:3",
            "command": ["/bin/bash", "-c", "serve"],
            "ports": [{"container_port": 8080}],
        },
        "resource_requirement": {"resource_shape": "cpu.small", "min_replicas": 1},
        "auto_scaler": {"scale_down": {"no_traffic_timeout": 3600}},
        "api_tokens": [],
        "image_pull_secrets": [],
    },
}
RAY_BODY = {  # with -wg --resource-shape cpu.small --node-group local, twice
    "metadata": {"id": "rays", "name": "rays", "visibility": "public"},
    "spec": {
        "ray_version": "2.49.2",
        "head_group_spec": {
            "affinity": {"allowed_dedicated_node_groups": ["local"]},
            "min_replicas": 1,
            "resource_shape": "cpu.small",
            "container": {"image": "ray:2.49.2-py312-gpu"},
            "reservation_config": {"allow_burst_to_other_reservations": False},
        },
        "worker_group_specs": [
            {
                "affinity": {"allowed_dedicated_node_groups": ["local"]},
                "min_replicas": 1,
                "resource_shape": "cpu.small",
                "user_security_context": {},
                "group_name": name,
            }
            for name in ("cpu", "more")
        ],
    },
}
OFF = {  # what `lep endpoint update -r 2` sends: 0 is off
    "scale_down": {"no_traffic_timeout": 0},
    "target_gpu_utilization_percentage": 0,
    "target_throughput": {"qpm": 0, "paths": [], "methods": []},
}
NODES = "/dedicated-node-groups/local"

# In this order, on one platform: {job} is the id of the first job, {ingress} the ingress's name.
CALLS = (
    PublishedCall("login", "GET", "/workspace", shape=WORKSPACE),
    PublishedCall("login", "GET", "", shape={"display_name": str}),
    PublishedCall("login", "GET", "/tokens", shape=[{"masked_value": str, "expires_at": int}]),
    PublishedCall("node list", "GET", "/dedicated-node-groups", shape=[GROUP]),
    PublishedCall("node list-nodes", "GET", NODES, shape=GROUP),
    PublishedCall(
        "node list-nodes",
        "GET",
        f"{NODES}/nodes",
        shape=[
            {
                "metadata": METADATA,
                "spec": {"unschedulable": bool},
                "status": {"status": [str], "workloads": Maybe(list)},
            }
        ],
    ),
    PublishedCall(
        "node list-nodes",
        "GET",
        f"{NODES}/machines",
        shape=[{"metadata": METADATA, "status": {"machine_id": str, "hostname": str}}],
    ),
    PublishedCall("node list-reservations", "GET", f"{NODES}/reservations", shape=[dict]),
    PublishedCall(
        "node resource-shape",
        "GET",
        "/shapes?node_groups=local",
        shape=[{"metadata": dict, "spec": {"name": str, "listable_in": [str], "cpu": NUMBER}}],
    ),
    PublishedCall("secret list", "GET", "/usersecrets", shape=[{"name": str}]),
    PublishedCall("secret create", "POST", "/usersecrets", [{"name": "S", "value": "v"}]),
    PublishedCall("job create", "POST", "/jobs", JOB_BODY, shape=JOB),
    PublishedCall("job create", "POST", "/jobs", JOB_BODY, shape=JOB),
    PublishedCall(
        "job create",
        "POST",
        "/jobs",
        {"metadata": {"id": "x"}, "spec": JOB_BODY["spec"] | {"resource_shape": "gpu.none"}},
        status=422,
        shape={"code": str, "message": str},
    ),
    PublishedCall(
        "job list",
        "GET",
        "/jobs?job_query_mode=alive_only&page=1&page_size=500",
        shape={"jobs": [JOB]},
    ),
    PublishedCall(
        "job list -s … -u … -n … -ng …",
        "GET",
        "/jobs?job_query_mode=alive_and_archive&page=1&page_size=500&status=Queue&status=run"
        "&created_by=admin&q=train&node_groups=local&query=a,b%3Dc",
        shape={"jobs": [JOB]},
    ),
    PublishedCall("job list", "GET", "/jobs?page=99&page_size=500", shape={"jobs": []}),
    PublishedCall("job get", "GET", "/jobs/{job}?job_query_mode=alive_only", shape=JOB),
    PublishedCall("job replicas", "GET", "/jobs/{job}/replicas", shape=[REPLICA]),
    PublishedCall("job events", "GET", "/jobs/{job}/events", shape=[EVENT]),
    PublishedCall("job stop", "PATCH", "/jobs/{job}", {"spec": {"stopped": True}}),
    PublishedCall("job start", "PATCH", "/jobs/{job}", {"spec": {"stopped": False}}),
    PublishedCall(
        "log get",
        "GET",
        "/logs?job={job}&start=1700000000000000000&end=1700000060000000000&timestamps=True"
        "&direction=forward&limit=10000&job_query_mode=alive_and_archive",
        shape=LOGS,
    ),
    PublishedCall("job remove", "DELETE", "/jobs/{job}?job_query_mode=alive_only"),
    PublishedCall("job get", "GET", "/jobs/{job}", status=404, shape={"code": str, "message": str}),
    PublishedCall("endpoint list", "GET", "/deployments", shape=[DEPLOYMENT]),
    PublishedCall("endpoint create", "POST", "/deployments", ENDPOINT_BODY, shape=DEPLOYMENT),
    PublishedCall(
        "endpoint create",
        "POST",
        "/deployments",
        ENDPOINT_BODY,
        status=409,
        shape={"code": str, "message": str},
    ),
    PublishedCall("endpoint get", "GET", "/deployments/web", shape=DEPLOYMENT),
    PublishedCall(
        "endpoint update -r 2",
        "PATCH",
        "/deployments/web?dryrun=true",
        {
            "spec": {
                "resource_requirement": {"min_replicas": 2, "max_replicas": 2},
                "auto_scaler": OFF,
            }
        },
        shape=DEPLOYMENT,
    ),
    PublishedCall(
        "endpoint update --load-balance sticky-routing",
        "PATCH",
        "/deployments/web",
        {"spec": {"load_balance_config": {"least_request": None, "maglev": {}}}},
        shape=DEPLOYMENT,
    ),
    PublishedCall(
        "endpoint update --public",
        "PATCH",
        "/deployments/web",
        {"spec": {"auth_config": {"ip_allowlist": []}, "allow_unauthenticated_access": True}},
        shape=DEPLOYMENT,
    ),
    PublishedCall("endpoint status", "GET", "/deployments/web/readiness", shape=dict),
    PublishedCall("endpoint status", "GET", "/deployments/web/termination", shape=dict),
    PublishedCall("endpoint status", "GET", "/deployments/web/replicas", shape=[REPLICA]),
    PublishedCall("endpoint events", "GET", "/deployments/web/events", shape=[EVENT]),
    PublishedCall("endpoint restart", "PUT", "/deployments/web/restart", shape=DEPLOYMENT),
    PublishedCall(
        "ingress create", "POST", "/ingress", {"metadata": {}, "spec": {"domain_name": "a.b.org"}}
    ),
    PublishedCall("ingress list", "GET", "/ingress", shape=[INGRESS]),
    PublishedCall(
        "ingress add-endpoint",
        "PATCH",
        "/ingress/{ingress}",
        {
            "metadata": {"name": "{ingress}", "id": "{ingress}", "created_at": 1, "version": 1},
            "spec": {
                "domain_name": "a.b.org",
                "endpoints": [{"deployment": "web", "weight": 100}],
            },
            "status": {"validation_status": "pending", "message": "x"},
        },
        shape=INGRESS,
    ),
    PublishedCall(
        "ingress remove-endpoint",
        "DELETE",
        "/ingress/{ingress}/endpoint/deployment/web",
        shape=INGRESS,
    ),
    PublishedCall("ingress delete", "DELETE", "/ingress/{ingress}"),
    PublishedCall("raycluster create", "POST", "/rayclusters", RAY_BODY),
    PublishedCall(
        "raycluster create",
        "POST",
        "/rayclusters",
        RAY_BODY,
        status=409,
        shape={"code": str, "message": str},
    ),
    PublishedCall("raycluster list", "GET", "/rayclusters", shape=[RAYCLUSTER]),
    PublishedCall("raycluster get", "GET", "/rayclusters/rays", shape=RAYCLUSTER),
    PublishedCall(
        "raycluster update -wg --group-name cpu --min-replicas 2",
        "PATCH",
        "/rayclusters/rays",
        {"spec": {"worker_group_specs": [{"group_name": "cpu", "min_replicas": 2}]}},
        shape=RAYCLUSTER,
    ),
    PublishedCall(
        "raycluster submit-job",
        "GET",
        "/rayclusters/rays/dashboard/api/version",
        status=503,
        shape={"code": str, "message": str},
    ),
    PublishedCall(
        "raycluster stop",
        "PATCH",
        "/rayclusters/rays",
        {"spec": {"suspend": True}},
        200,
        RAYCLUSTER,
    ),
    PublishedCall(
        "raycluster start",
        "PATCH",
        "/rayclusters/rays",
        {"spec": {"suspend": False}},
        shape=RAYCLUSTER,
    ),
    PublishedCall("raycluster remove", "DELETE", "/rayclusters/rays"),
    PublishedCall("template list", "GET", "/templates/public", shape=[TEMPLATE]),
    PublishedCall("template list", "GET", "/templates/private", shape=[TEMPLATE]),
    PublishedCall(
        "job create --template",
        "POST",
        "/templates/public/torchrun/render",
        {"run": "train.py"},
        shape={"metadata": dict, "spec": {"container": {"command": [str]}}},
    ),
    PublishedCall(
        "endpoint stop",
        "PATCH",
        "/deployments/web",
        {"spec": {"resource_requirement": {"min_replicas": 0}}},
        shape=DEPLOYMENT,
    ),
    PublishedCall("endpoint remove", "DELETE", "/deployments/web"),
    PublishedCall("endpoint create --rerun", "POST", "/deployments", ENDPOINT_BODY),
    PublishedCall("secret remove", "DELETE", "/usersecrets/S"),
)
