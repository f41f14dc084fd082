"""Which servers may be copies of a process that has loaded their model, instead of loading it too.

A template takes memory for as long as it is kept. So only endpoints that scale by themselves have
one: theirs are the replicas that somebody waits for.
"""

import hashlib

import msgspec

from leptonai.core.autoscaling import policy_kept
from leptonai.core.lifecycle.program import MODEL_SERVER, program_of_endpoint
from leptonai.core.records import Endpoint, OwnerKind, Program, Replica
from leptonai.core.rollouts.asked import at_revision

OF_A_REPLICA = ("LEPTON_REPLICA_ID", "PORT")  # variables that differ between replicas
KEY_LENGTH = 32


def template_key(replica: Replica) -> str:
    """Replicas of one key load the same. Never those of two endpoints: what one's users send may
    have come into the memory of a template by its photon."""
    return _key(replica.workspace, replica.owner_id, replica.program)


def loads_a_model(program: Program) -> bool:
    """Whether it is the server of a model or a photon, and nothing of its own."""
    return program.command == MODEL_SERVER and bool(program.model) and not program.workdir


def why_cold(program: Program, *, runs_images: bool) -> str:
    """What keeps such a server from being a copy; "" if nothing does."""
    if program.needs.gpus:
        return "they have GPUs, and what is on a GPU cannot be copied"
    if program.image and runs_images:
        return "they run in containers"
    return ""


def withheld(program: Program) -> frozenset[str]:
    """Variables that a template does not get: secrets, and what each replica has its own of."""
    secrets = {each.name for each in program.envs if each.value_from is not None}
    return frozenset(secrets.union(OF_A_REPLICA))


def wants_template(endpoint: Endpoint) -> bool:
    """Whether it may have further replicas at any time."""
    return policy_kept(endpoint.spec) is not None


def keys_wanted(endpoint: Endpoint) -> set[str]:
    """Of the templates that replicas of it may be copies of."""
    if not wants_template(endpoint):
        return set()
    revisions = {endpoint.revision}
    if endpoint.rollout is not None:
        revisions.add(endpoint.rollout.stable.number)
    programs = [program_of_endpoint(at_revision(endpoint, number)) for number in sorted(revisions)]
    return {
        _key(endpoint.workspace, endpoint.id, program)
        for program in programs
        if loads_a_model(program)
    }


def _key(workspace: str, endpoint: str, program: Program) -> str:
    told = (workspace, OwnerKind.ENDPOINT, endpoint, program.model, program.command, program.envs)
    return hashlib.sha256(msgspec.json.encode(told)).hexdigest()[:KEY_LENGTH]
