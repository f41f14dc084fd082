from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leptonai.core.access import Action, Allow, Deny, Kind, Principal, Resource, Role, decide
from leptonai.core.records import AnyRecord

KINDS = (
    "workspace",
    "token",
    "job",
    "endpoint",
    "node",
    "quota",
    "secret",
    "dataset",
    "model",
    "blob",
    "run",
)
PLATFORM = ("route", "traffic", "metrics", "schema")


def who(role: str, name: str = "ana", workspace: str = "ws", job: str = "") -> Principal:
    return Principal(name, Role(role), workspace, job=job)


def a(kind: str, **fields) -> Resource:
    return Resource(**({"kind": kind, "workspace": "ws"} | fields))


OWN = {"owner": "ana"}
OTHERS = {"owner": "ben"}
HIDDEN = {"owner": "ben", "private": True}

TABLE = [
    ("admin", "delete", a("job", **HIDDEN), True),
    ("admin", "use", a("secret", **HIDDEN), True),
    ("admin", "read", a("job", workspace="other"), False),
    ("member", "create", a("job"), True),
    ("member", "create", a("secret"), True),
    ("member", "create", a("token"), False),
    ("member", "create", a("node"), False),
    ("member", "read", a("job", **OTHERS), True),
    ("member", "read", a("job", **HIDDEN), False),
    ("member", "update", a("job", **OTHERS), False),
    ("member", "update", a("job", **OWN), True),
    ("member", "delete", a("endpoint", **OWN), True),
    ("member", "delete", a("model", **OTHERS), False),
    ("member", "delete", a("node", **OWN), False),
    ("member", "read", a("quota"), True),
    ("member", "create", a("quota"), False),
    ("member", "update", a("quota"), False),
    ("member", "delete", a("quota", **OWN), False),
    ("admin", "update", a("quota"), True),
    ("member", "update", a("checkpoint", **OWN), True),
    ("member", "update", a("checkpoint", **OTHERS), False),
    ("workload", "update", a("checkpoint", id="mine", owner="ben"), True),
    ("workload", "update", a("checkpoint", id="other", **OWN), False),
    ("workload", "create", a("run", job="mine"), True),
    ("workload", "update", a("run", job="mine", owner="ben"), True),
    ("workload", "read", a("run", job="other", **OWN), False),
    ("workload", "delete", a("run", job="mine", **OWN), False),
    ("workload", "update", a("run", **OWN), False),
    ("recorder", "update", a("run", job="mine"), True),
    ("recorder", "update", a("run", job="other"), False),
    ("recorder", "create", a("run"), False),
    ("recorder", "delete", a("run", job="mine", **OWN), False),
    ("recorder", "create", a("blob"), True),
    ("recorder", "create", a("dataset"), False),
    ("recorder", "read", a("job", id="mine", **OWN), False),
    ("recorder", "update", a("checkpoint", id="mine", **OWN), False),
    ("member", "update", a("run", **OWN), True),
    ("member", "update", a("run", **OTHERS), False),
    ("member", "read", a("run", **HIDDEN), False),
    ("member", "use", a("secret", **HIDDEN), False),
    ("member", "use", a("secret", **OTHERS), True),
    ("member", "use", a("secret", owner="ana", private=True), True),
    ("member", "read", a("metrics", workspace=""), True),
    ("member", "read", a("route", workspace=""), False),
    ("gateway", "read", a("route", workspace=""), True),
    ("gateway", "update", a("route", workspace=""), False),
    ("gateway", "update", a("traffic", workspace=""), True),
    ("admin", "update", a("traffic", workspace=""), False),
    ("gateway", "read", a("job"), False),
    ("gateway", "create", a("blob"), False),
    ("workload", "read", a("dataset"), True),
    ("workload", "create", a("model"), True),
    ("workload", "read", a("model", **HIDDEN), False),
    ("workload", "delete", a("model", **OWN), False),
    ("workload", "read", a("job", id="mine"), True),
    ("workload", "read", a("job", id="other"), False),
    ("workload", "update", a("job", id="mine", **OWN), False),
    ("workload", "use", a("secret", **OWN), False),
    ("workload", "read", a("secret", **OWN), False),
    ("workload", "create", a("job"), False),
]


@pytest.mark.parametrize(("role", "action", "resource", "allowed"), TABLE)
def test_the_table_of_who_may_do_what(role, action, resource, allowed):
    principal = who(role, job="mine" if role in ("workload", "recorder") else "")
    decision = decide(principal, Action(action), resource)
    assert isinstance(decision, Allow if allowed else Deny)


principals = st.builds(
    Principal,
    st.sampled_from(["ana", "ben", ""]),
    st.sampled_from(Role),
    st.sampled_from(["ws", "other"]),
    st.sampled_from(["", "mine"]),
)
resources = st.builds(
    Resource,
    kind=st.sampled_from(KINDS + PLATFORM),
    workspace=st.sampled_from(["ws", "other", ""]),
    id=st.sampled_from(["", "mine", "x"]),
    owner=st.sampled_from(["ana", "ben", ""]),
    job=st.sampled_from(["", "other"]),
    private=st.booleans(),
)
actions = st.sampled_from(Action)


@given(principals, actions, resources)
def test_no_token_reaches_into_another_workspace(principal, action, resource):
    if resource.kind not in PLATFORM and resource.workspace != principal.workspace:
        assert isinstance(decide(principal, action, resource), Deny)


@given(principals, actions, resources)
def test_nobody_but_its_owner_and_admins_touches_what_is_private(principal, action, resource):
    outsider = principal.role is not Role.ADMIN and principal.name != resource.owner
    touches = action in (Action.READ, Action.USE, Action.UPDATE, Action.DELETE)
    shared = resource.kind in PLATFORM or (
        principal.job != "" and resource.id == principal.job and resource.kind == "job"
    )
    if resource.private and outsider and touches and not shared:
        assert isinstance(decide(principal, action, resource), Deny)


@given(principals, actions, resources)
def test_only_admins_and_owners_change_what_there_is(principal, action, resource):
    if action in (Action.UPDATE, Action.DELETE) and principal.role is not Role.ADMIN:
        owns = resource.owner != "" and principal.name == resource.owner
        tells = principal.role is Role.GATEWAY and resource.kind == "traffic"
        if not (principal.role is Role.MEMBER and owns) and not (tells and action is Action.UPDATE):
            assert isinstance(decide(principal, action, resource), Deny)


@given(principals, actions, resources)
def test_every_refusal_says_why(principal, action, resource):
    decision = decide(principal, action, resource)
    assert isinstance(decision, Allow) or decision.because


def test_the_tag_of_a_record_is_the_kind_that_is_decided_on():
    tags = {kind.__struct_config__.tag for kind in get_args(AnyRecord)}
    assert tags - set(get_args(Kind)) == {"replica", "settings"}  # asked for as what they are of
