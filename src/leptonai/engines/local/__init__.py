"""The engine of this machine."""

from leptonai.engines.local.engine import LocalEngine
from leptonai.engines.local.home import HomeLock, lock_home

__all__ = ["HomeLock", "LocalEngine", "lock_home"]
