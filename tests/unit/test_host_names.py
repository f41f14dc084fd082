"""What a worker is told of its job, and by which names workers find each other."""

from msgspec.structs import replace

from leptonai.core.lifecycle.environment import environment, host_names
from leptonai.core.lifecycle.job import advance, new_job
from leptonai.core.records import OwnerKind
from leptonai.spec.containers import Container
from leptonai.spec.jobs import JobSpec

ADDRESSES = {"n0": "10.0.0.1", "n1": "10.0.0.2"}


def a_gang():
    job = new_job(
        workspace="w",
        id="j-1234",
        name="j",
        spec=JobSpec(container=Container(command=["true"]), completions=2),
        owner="ada",
        labels={},
        visibility="",
        now_ms=0,
    )
    return [
        replace(each, node=f"n{each.index}", rendezvous_port=20_000)
        for each in advance(job, (), 0).replicas
    ]


def test_every_worker_has_the_names_that_are_made_of_its_variables():
    gang = a_gang()
    env = environment(gang[1], gang, addresses=ADDRESSES, gpu_type="", workspace_url="")
    names = host_names(gang[1], gang, ADDRESSES)
    prefix, domain = env["LEPTON_JOB_SERVICE_PREFIX"], env["LEPTON_SUBDOMAIN"]
    assert names[f"{prefix}-0.{domain}"] == env["MASTER_ADDR"] == "10.0.0.1"
    assert names[f"{prefix}-1.{domain}"] == "10.0.0.2"
    assert names[f"{prefix}-1.{domain}.ws-w.svc.cluster.local"] == "10.0.0.2"
    assert len(names) == 4


def test_a_worker_without_gpus_is_told_so():
    gang = a_gang()
    env = environment(gang[0], gang, addresses=ADDRESSES, gpu_type="H200", workspace_url="")
    told = [env[f"LEPTON_RESOURCE_ACCELERATOR_{what}"] for what in ("TYPE", "NUM")]
    assert told == ["", "0"]


def test_a_server_has_no_such_names():
    (server, _) = (replace(each, owner_kind=OwnerKind.ENDPOINT) for each in a_gang())
    assert host_names(server, [server], ADDRESSES) == {}
