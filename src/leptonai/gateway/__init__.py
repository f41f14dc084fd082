"""The gateway: the way in to endpoints, in a process of its own that outlives the control plane.

``/e/WORKSPACE/NAME/…`` reaches a ready replica of that endpoint as ``/…``. The gateway checks who
asks, chooses the replica with the least to do, streams both ways, and holds a request while its
endpoint has no replica yet. It follows the control plane's route table and keeps the last one, so
that it serves without it, too.
"""

from .limits import Limits
from .server import Config, serve

__all__ = ["Config", "Limits", "serve"]
