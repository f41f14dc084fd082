"""What the platform remembers: the desired and the observed state of every resource.

A record is immutable; a change is a new value that is committed against the version it was read at.
The wire's view of it is made in `control/api`; what was asked stays in it word for word (`spec`).
"""

from leptonai.core.records.artifacts import Dataset, Model, Run
from leptonai.core.records.events import Event, Severity, event_of
from leptonai.core.records.nodes import Node, NodeState
from leptonai.core.records.record import Named, Record
from leptonai.core.records.replicas import (
    MAX_TERMINATIONS,
    SERVER_KEPT_S,
    EndReason,
    Goal,
    OwnerKind,
    Phase,
    Program,
    Replica,
    Termination,
    VolumeMount,
)
from leptonai.core.records.storage import DataSource, KeySpace, MessageQueue, StoredObject, Volume
from leptonai.core.records.workloads import (
    ARCHIVE_KEPT_S,
    DEFAULT_TTL_S,
    Autoscaling,
    Endpoint,
    Job,
    PodSeen,
    RayCluster,
    TokenHash,
    Workload,
    kind_of,
)
from leptonai.core.records.workspaces import (
    RESERVATION_KEPT_S,
    SETTINGS_ID,
    Ingress,
    Quota,
    Reservation,
    Secret,
    Settings,
    Template,
    Token,
)

AnyRecord = (
    Replica
    | Job
    | Endpoint
    | RayCluster
    | Node
    | Secret
    | Token
    | Quota
    | Dataset
    | Model
    | Run
    | Volume
    | DataSource
    | KeySpace
    | MessageQueue
    | StoredObject
    | Ingress
    | Template
    | Reservation
    | Settings
)

__all__ = [
    "ARCHIVE_KEPT_S",
    "DEFAULT_TTL_S",
    "MAX_TERMINATIONS",
    "RESERVATION_KEPT_S",
    "SERVER_KEPT_S",
    "SETTINGS_ID",
    "AnyRecord",
    "Autoscaling",
    "DataSource",
    "Dataset",
    "EndReason",
    "Endpoint",
    "Event",
    "Goal",
    "Ingress",
    "Job",
    "KeySpace",
    "MessageQueue",
    "Model",
    "Named",
    "Node",
    "NodeState",
    "OwnerKind",
    "Phase",
    "PodSeen",
    "Program",
    "Quota",
    "RayCluster",
    "Record",
    "Replica",
    "Reservation",
    "Run",
    "Secret",
    "Settings",
    "Severity",
    "StoredObject",
    "Template",
    "Termination",
    "Token",
    "TokenHash",
    "Volume",
    "VolumeMount",
    "Workload",
    "event_of",
    "kind_of",
]
