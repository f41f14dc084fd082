"""The engine of this machine."""

from leptonai.engines.local.engine import LocalEngine

__all__ = ["LocalEngine"]
