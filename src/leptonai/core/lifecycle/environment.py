"""The variables that a workload finds: Lepton's own, and those that torch and torchrun read."""

import json
from collections.abc import Mapping, Sequence

from leptonai.core.records import OwnerKind, Replica

RESERVED = frozenset(
    {
        "LEPTON_WORKSPACE_ID",
        "LEPTON_DEPLOYMENT_NAME",
        "LEPTON_JOB_NAME",
        "LEPTON_RESOURCE_ACCELERATOR_TYPE",
        "LEPTON_WORKSPACE_ORIGIN_URL",
    }
)


def environment(
    replica: Replica,
    gang: Sequence[Replica],
    *,
    addresses: Mapping[str, str],
    gpu_type: str,
    workspace_url: str,
    failures: int = 0,
) -> dict[str, str]:
    """What the platform tells a replica; what the user set comes on top, where it is not reserved.

    Args:
        gang: the replica's gang by index, itself included; all are placed.
        addresses: where each node is reached.
        failures: attempts of the whole job that failed before.
    """
    needs = replica.program.needs
    env = {
        "LEPTON_WORKSPACE_ID": replica.workspace,
        "LEPTON_WORKSPACE_URL": workspace_url,
        "OMP_NUM_THREADS": str(max(1, needs.cpu_millis // 1000)),
        "PYTHONUNBUFFERED": "1",  # or the log of a running program stays empty
        # Also without GPUs: scripts that are sourced under `set -u` read them unasked.
        "LEPTON_RESOURCE_ACCELERATOR_TYPE": gpu_type if needs.gpus else "",
        "LEPTON_RESOURCE_ACCELERATOR_NUM": str(needs.gpus),
    }
    if replica.owner_kind is OwnerKind.JOB:
        return env | _of_worker(replica, gang, addresses, failures)
    if replica.program.pod:
        env["LEPTON_PORTS"] = ",".join(map(str, replica.ports))
    if replica.owner_kind is OwnerKind.RAYCLUSTER:
        return env | {
            "LEPTON_RAYCLUSTER_NAME": replica.owner_name,
            "LEPTON_RAYCLUSTER_GROUP": replica.group or "head",
            "LEPTON_REPLICA_ID": replica.id,
        }
    return env | {
        "LEPTON_DEPLOYMENT_NAME": replica.owner_name,
        "LEPTON_REPLICA_ID": replica.id,
        "PORT": str(replica.ports[0]) if replica.ports else "",
    }


def host_names(
    replica: Replica, gang: Sequence[Replica], addresses: Mapping[str, str]
) -> dict[str, str]:
    """The address of every worker of a job, by each of the names that programs make of the
    variables for it. Args as of `environment`."""
    if replica.owner_kind is not OwnerKind.JOB:
        return {}
    domain = subdomain(replica.owner_id)
    whole = f"{domain}.ws-{replica.workspace}.svc.cluster.local"
    return {
        f"{replica.owner_id}-{each.index}.{suffix}": addresses.get(each.node, "127.0.0.1")
        for each in gang
        for suffix in (domain, whole)
    }


def subdomain(job: str) -> str:
    return f"{job}-job-svc"


def _of_worker(
    replica: Replica, gang: Sequence[Replica], addresses: Mapping[str, str], failures: int
) -> dict[str, str]:
    world = str(len(gang))
    rank = str(replica.index)
    first = gang[0]
    master_address = addresses.get(first.node, "127.0.0.1")
    master_port = str(first.rendezvous_port)
    job = replica.owner_id
    return {
        "LEPTON_JOB_NAME": job,
        "LEPTON_JOB_WORKER_INDEX": rank,
        "LEPTON_JOB_TOTAL_WORKERS": world,
        "LEPTON_JOB_SERVICE_PREFIX": job,
        "LEPTON_JOB_WORKER_PREFIX": job,
        "LEPTON_JOB_WORKER_HOSTNAME_PREFIX": job,
        "LEPTON_SUBDOMAIN": subdomain(job),
        "LEPTON_WORKER_ID": replica.id,
        "LEPTON_JOB_FAILURE_COUNT": str(failures + replica.attempt),
        # Each worker is a node of its own to torch: its processes see its GPUs as 0, 1, …
        "MASTER_ADDR": master_address,
        "MASTER_PORT": master_port,
        "WORLD_SIZE": world,
        "RANK": rank,
        "LOCAL_RANK": "0",
        "NODE_RANK": rank,
        "NNODES": world,
        # torchrun reads only these; without them each worker would silently train alone.
        "PET_NNODES": world,
        "PET_NODE_RANK": rank,
        "PET_MASTER_ADDR": master_address,
        "PET_MASTER_PORT": master_port,
        "PET_NPROC_PER_NODE": str(max(1, replica.program.needs.gpus)),
        **({"PORT": str(replica.ports[0])} if replica.ports else {}),
        **_of_tensorflow(replica, gang, addresses),
    }


def _of_tensorflow(
    replica: Replica, gang: Sequence[Replica], addresses: Mapping[str, str]
) -> dict[str, str]:
    """Where each worker listens, if the job asked for a port: what tf.distribute reads."""
    if len(gang) == 1 or not all(each.ports for each in gang):
        return {}
    workers = [f"{addresses.get(each.node, '127.0.0.1')}:{each.ports[0]}" for each in gang]
    task = {"type": "worker", "index": replica.index}
    return {"TF_CONFIG": json.dumps({"cluster": {"worker": workers}, "task": task})}
