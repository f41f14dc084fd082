"""What is kept and chosen for a workspace: its secrets, tokens and quotas, and what is reserved."""

from typing import Literal

from msgspec import field

from leptonai.core.records.record import Named, Record
from leptonai.spec.ingress import IngressSpec
from leptonai.spec.reservations import ReservationSpec
from leptonai.spec.templates import TemplateSpec
from leptonai.spec.workspace import Features

RESERVATION_KEPT_S = 30 * 86_400  # after its end
SETTINGS_ID = "settings"


class Secret(Named, tag="secret", tag_field="kind", frozen=True, kw_only=True):
    """What a program gets as a variable, encrypted."""

    ciphertext: bytes


class Token(Record, tag="token", tag_field="kind", frozen=True, kw_only=True):
    """Lets its bearer act as `name` with `role`."""

    sha256: str
    masked: str
    role: Literal["admin", "member", "gateway"] = "member"
    expires_at_ms: int | None = None

    @property
    def unique_key(self) -> str | None:
        return self.sha256


class Quota(Record, tag="quota", tag_field="kind", frozen=True, kw_only=True):
    """What a user or a project of a workspace is guaranteed, and how much a user's turns count. Its
    name is that of the user or project."""

    of_project: bool = False  # else of a user
    gpus: float | None = None  # None: not limited
    cpu_millis: int | None = None
    borrow: bool = True  # may hold more while it is idle, with what can be preempted
    weight: float = 1.0  # of a user, where users take turns

    @property
    def unique_key(self) -> str | None:
        return f"{'project' if self.of_project else 'user'}:{self.name}"


class Ingress(Record, tag="ingress", tag_field="kind", frozen=True, kw_only=True):
    """A domain and the endpoints that share its requests. Addressed by name."""

    spec: IngressSpec

    @property
    def unique_key(self) -> str | None:
        return self.name


class Template(Named, tag="template", tag_field="kind", frozen=True, kw_only=True):
    """A private one: public ones come with the platform."""

    spec: TemplateSpec


class Reservation(Record, tag="reservation", tag_field="kind", frozen=True, kw_only=True):
    """Nodes of a group that are kept for some users, for some time, once an admin approved."""

    group: str
    spec: ReservationSpec
    decided: Literal["", "approved", "rejected"] = ""
    nodes: tuple[str, ...] = ()  # that were chosen at the approval

    @property
    def parent(self) -> str:
        return f"group/{self.group}"

    @property
    def due_at_ms(self) -> int | None:
        """When it is to be removed: a while after its end, if it has one."""
        rule = self.spec.time_rule
        if rule is None or rule.end_timestamp is None:
            return None
        return 1000 * (rule.end_timestamp + RESERVATION_KEPT_S)


class Settings(Record, tag="settings", tag_field="kind", frozen=True, kw_only=True):
    """Of a workspace: what an admin chose. There is at most one, with the id `SETTINGS_ID`."""

    features: Features = field(default_factory=Features)

    @property
    def live(self) -> bool:
        return False
