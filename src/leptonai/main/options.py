"""What `leptonai up` may be told."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    host: str = "127.0.0.1"
    port: int = 8420
    gateway_port: int = 8421
    gateway: Literal["own", "envoy"] = "own"  # what takes requests first
    access_log: bool = False  # of the gateway
    otlp_endpoint: str = ""  # a collector that the gateway sends spans to; "" is none
    workspace: str = "default"
    database: str = ""  # URL; "" is SQLite in the home
    blobs: str = ""  # a directory, or a bucket's URL; "" is what was settled before
    encrypt_blobs: bool = False
    containers: Literal["off", "auto"] = "off"  # auto: run images with podman or docker
