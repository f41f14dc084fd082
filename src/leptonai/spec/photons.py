"""Photons: model servers that are written as classes, as they are packed and as they are listed."""

from typing import Any

import msgspec
from msgspec import field

from leptonai.spec.metadata import Wire

FORMAT = "photon"  # of the version that it is registered as
METADATA_FILE = "photon.json"


class Packed(msgspec.Struct, kw_only=True, frozen=True):
    """What `METADATA_FILE` says."""

    name: str
    file: str
    photon: str  # the class
    requirement_dependency: list[str] = []
    system_dependency: list[str] = []
    deployment_template: dict[str, Any] = {}
    extra_files: list[str] = []

    @property
    def facts(self) -> dict[str, Any]:
        """What is registered with it, for people and programs."""
        return {
            "class": self.photon,
            "requirement_dependency": self.requirement_dependency,
            "system_dependency": self.system_dependency,
            "deployment_template": self.deployment_template,
        }


class DeploymentTemplate(Wire, frozen=True):
    resource_shape: str | None = None
    env: dict[str, str] | None = None
    secret: list[str] | None = None


class RegisteredPhoton(Wire, frozen=True, omit_defaults=False):
    """As published clients list them."""

    id: str
    name: str
    model: str
    created_at: int  # milliseconds since 1970
    version: int
    requirement_dependency: list[str] = field(default_factory=list)
    deployment_template: DeploymentTemplate = field(default_factory=DeploymentTemplate)
    image: str = ""
