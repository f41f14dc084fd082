"""Who may do what: one pure function says yes or no."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal


class Role(StrEnum):
    ADMIN = "admin"  # everything in its workspace
    MEMBER = "member"  # sees what is shared, and rules over what it made
    GATEWAY = "gateway"  # follows the route table, nothing else
    WORKLOAD = "workload"  # a running job: reads its inputs, pushes its outputs, records its run
    RECORDER = "recorder"  # a running job: records its run, nothing else
    LINK = "link"  # whoever holds a link to an object: reads or writes that one, nothing else


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks. `job` is the id of the job that a workload's token was given to; its `name` is
    then that of the job's owner, who also owns what the job makes. A link is good for one `object`,
    and `writes` it or reads it."""

    name: str
    role: Role
    workspace: str
    job: str = ""
    object: str = ""
    writes: bool = False


class Action(StrEnum):
    READ = "read"
    # Have a workload run with it: a secret's value reaches the workload. Of a queue or a key space:
    # put something in, or take it out.
    USE = "use"
    CREATE = "create"
    UPDATE = "update"
    DELETE = "delete"


Kind = Literal[
    "workspace",
    "token",
    "job",
    "checkpoint",
    "endpoint",
    "raycluster",
    "node",
    "quota",
    "secret",
    "dataset",
    "model",
    "blob",
    "log",
    "run",
    "ingress",
    "template",
    "reservation",
    "keyspace",
    "queue",
    "object",
    "route",
    "traffic",
    "metrics",
    "schema",
    "volume",
    "datasource",
    "file",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """What is asked for. `workspace` "" is the platform's own; `id` "" is any of its kind."""

    kind: Kind
    workspace: str = ""
    id: str = ""
    owner: str = ""
    job: str = ""  # the id of the job that it belongs to
    private: bool = False  # only its owner and admins see it


@dataclass(frozen=True, slots=True)
class Allow:
    pass


@dataclass(frozen=True, slots=True)
class Deny:
    because: str


Decision = Allow | Deny

_PLATFORM: frozenset[Kind] = frozenset({"route", "traffic", "metrics", "schema"})
_ARTIFACTS: frozenset[Kind] = frozenset({"dataset", "model", "blob"})
_EXCHANGE: frozenset[Kind] = frozenset({"keyspace", "queue", "object"})  # between workloads
_SHARED: frozenset[Kind] = frozenset({"workspace", "node", "quota", "blob", "volume", "datasource"})


def decide(principal: Principal, action: Action, resource: Resource) -> Decision:
    """Whether `principal` may do `action` to `resource`; what is not allowed is denied."""
    if resource.kind in _PLATFORM:
        return _platform(principal, action, resource.kind)
    if resource.workspace != principal.workspace:
        return Deny("this token is for another workspace")
    match principal.role:
        case Role.ADMIN:
            return Allow()
        case Role.MEMBER:
            return _member(principal, action, resource)
        case Role.WORKLOAD:
            return _workload(principal, action, resource)
        case Role.RECORDER:
            return _recorder(principal, action, resource)
        case Role.LINK:
            return _link(principal, action, resource)
        case Role.GATEWAY:
            return Deny("a gateway's token only follows the route table and tells of traffic")


def _platform(principal: Principal, action: Action, kind: Kind) -> Decision:
    if kind == "traffic":
        if action is Action.UPDATE and principal.role is Role.GATEWAY:
            return Allow()
        return Deny("only a gateway tells of traffic")
    if action is not Action.READ:
        return Deny(f"nobody may {action} this")
    allowed = {
        "route": (Role.ADMIN, Role.GATEWAY),
        "metrics": (Role.ADMIN, Role.MEMBER, Role.GATEWAY),
        "schema": tuple(Role),
    }[kind]
    if principal.role in allowed:
        return Allow()
    return Deny(f"a token of role {principal.role.value} may not read this")


def _member(principal: Principal, action: Action, resource: Resource) -> Decision:
    if resource.kind == "file":
        return Allow()  # the rules of its volume say who may: `core.volumes.may_use`
    owns = resource.owner != "" and resource.owner == principal.name
    if action is Action.CREATE:
        if resource.kind in ("node", "quota", "workspace", "token", "volume", "datasource"):
            return Deny(f"only an admin may create a {resource.kind}")
        return Allow()
    if action in (Action.READ, Action.USE):
        if resource.private and not owns:
            return Deny(f"this {resource.kind} is private to its owner")
        return Allow()
    if owns and resource.kind not in _SHARED:
        return Allow()
    return Deny(f"only its owner or an admin may {action.value} this {resource.kind}")


def _workload(principal: Principal, action: Action, resource: Resource) -> Decision:
    if resource.kind in _ARTIFACTS and action in (Action.READ, Action.CREATE):
        owns = resource.owner == principal.name
        if resource.private and not owns and action is Action.READ:
            return Deny(f"this {resource.kind} is private to its owner")
        return Allow()
    if resource.kind in _EXCHANGE and (
        action in (Action.READ, Action.USE) or resource.kind == "object"
    ):
        return _member(principal, action, resource)
    if resource.kind == "checkpoint" and action is Action.UPDATE:
        if resource.id and resource.id == principal.job:
            return Allow()
        return Deny("a job's own token speaks for no other job")
    if resource.kind == "run":
        return _recorder(principal, action, resource)
    if resource.kind in ("job", "log") and action is Action.READ:
        if resource.id and resource.id == principal.job:
            return Allow()
        return Deny("a job's own token reads no other job")
    return Deny("a job's own token only reads and pushes datasets, models and blobs")


def _link(principal: Principal, action: Action, resource: Resource) -> Decision:
    granted = (Action.CREATE, Action.UPDATE) if principal.writes else (Action.READ,)
    if resource.kind == "object" and resource.id == principal.object and action in granted:
        return Allow()
    return Deny("a link is good for one object, and for what it was made for")


def _recorder(principal: Principal, action: Action, resource: Resource) -> Decision:
    if resource.kind == "blob" and action in (Action.READ, Action.CREATE):
        if resource.private:
            return Deny("this blob is private to its owner")
        return Allow()  # by digest: who does not know one can read none
    if resource.kind == "run" and resource.job != "" and resource.job == principal.job:
        if action in (Action.READ, Action.CREATE, Action.UPDATE):
            return Allow()
        return Deny("a job does not remove its run")
    return Deny("a job's own token records the run of no other job")
